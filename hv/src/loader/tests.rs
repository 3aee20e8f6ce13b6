//! Images built in memory, one for each violation.

use super::*;

#[test]
fn text_is_not_an_image() {
    let error = Image::parse(b"#!/bin/sh\n".to_vec()).unwrap_err();
    assert_eq!(error, ImageError::NotElf { start: b"#!/b".to_vec() });
    assert!(error.to_string().contains("not an ELF file (it begins with [23, 21, 2f, 62])"));
}
