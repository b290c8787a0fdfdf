//! A data stream, as either side reads it: frame after frame, until one is refused. The fuzzer
//! chooses headers and the flags in front of blocks; the blocks themselves are made up, or no
//! input would ever be long enough for one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rampool_protocol::frame::{self, HEADER_SIZE, Header, Verb};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let mut frames = 0;
    while let Some((header, tail)) = rest.split_first_chunk::<HEADER_SIZE>() {
        rest = tail;
        let Ok(header) = Header::parse(header) else { return };
        let mut body = vec![1; header.body_len];
        let given = rest.len().min(header.count).min(body.len());
        body[..given].copy_from_slice(&rest[..given]);
        rest = &rest[given..];
        match header.verb {
            Verb::Get => {
                let keys = frame::get_body(&body).expect("the header promises whole keys");
                assert_eq!(keys.len(), header.count);
            }
            Verb::Put => {
                let entries = frame::put_body(&body).expect("the header promises whole entries");
                assert_eq!(entries.len(), header.count);
            }
            Verb::Got => {
                let Ok(blocks) = frame::got_body(header, &body) else { return };
                assert_eq!(blocks.count(), header.count);
            }
            Verb::Stored => {
                let (outcomes, _) = frame::stored_body(header, &body).expect("as long as it says");
                assert_eq!(outcomes.len(), header.count);
            }
        }
        frames += 1;
        if frames == 64 {
            return;
        }
    }
});
