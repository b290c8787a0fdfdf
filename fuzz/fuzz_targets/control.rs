//! The control stream, both ways: a message is refused, or reads back as the bytes it came as.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rampool_protocol::control::{self, MESSAGE_BYTES_MAX, ToClient, ToServer};

fuzz_target!(|bytes: &[u8]| {
    if let Some((&length, _)) = bytes.split_first_chunk::<4>()
        && let Ok(length) = control::parse_length(length)
    {
        assert!(length <= MESSAGE_BYTES_MAX);
    }
    if let Ok(message) = control::decode::<ToServer>(bytes) {
        assert_eq!(&control::encode(&message)[4..], bytes);
    }
    if let Ok(message) = control::decode::<ToClient>(bytes) {
        assert_eq!(&control::encode(&message)[4..], bytes);
    }
});
