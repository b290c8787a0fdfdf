//! One frame: any header is refused or keeps to the limits, any body is refused or whole.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rampool_protocol::frame::{
    self, BODY_BYTES_MAX, HEADER_SIZE, Header, PutOutcome, RUN_BLOCKS_MAX, RequestId,
};

fuzz_target!(|bytes: &[u8]| {
    // The bodies, whatever their header says: a decoder must not trust its caller.
    let keys = frame::get_body(bytes);
    assert!(keys.is_err() || keys.is_ok_and(|keys| keys.len() * 16 == bytes.len()));
    let entries = frame::put_body(bytes);
    assert!(entries.is_err() || entries.is_ok_and(|entries| entries.len() * 4128 == bytes.len()));
    if let Some((&first, body)) = bytes.split_first() {
        let header = Header::got(RequestId(0), usize::from(first) + 1, 0);
        check_got(header, body);
        PutOutcome::from_byte(first);
    }

    let Some((header, body)) = bytes.split_first_chunk::<HEADER_SIZE>() else { return };
    let Ok(header) = Header::parse(header) else { return };
    assert!((1..=RUN_BLOCKS_MAX).contains(&header.count));
    assert!(header.body_len <= BODY_BYTES_MAX);
    assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
    check_got(header, body);
});

fn check_got(header: Header, body: &[u8]) {
    if let Ok(blocks) = frame::got_body(header, body) {
        let (mut count, mut hits) = (0, 0);
        for block in blocks {
            count += 1;
            hits += usize::from(block.is_some());
        }
        assert_eq!(count, header.count);
        assert_eq!(body.len(), count + hits * 4112);
    }
}
