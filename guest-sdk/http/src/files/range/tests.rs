use super::*;

#[test]
fn what_a_range_asks_for() {
    for (value, expected) in [
        ("bytes=0-0", Some(Ok(0..1))),
        ("bytes=2-5", Some(Ok(2..6))),
        ("bytes=2-", Some(Ok(2..10))),
        ("bytes=9-100", Some(Ok(9..10))),
        ("bytes=0-18446744073709551615", Some(Ok(0..10))),
        ("bytes=-3", Some(Ok(7..10))),
        ("bytes=-100", Some(Ok(0..10))),
        ("bytes= 2-5 ", Some(Ok(2..6))),
        ("bytes=10-", Some(Err(()))),
        ("bytes=10-12", Some(Err(()))),
        ("bytes=-0", Some(Err(()))),
        // To be ignored: nonsense, several ranges, other units.
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=+1-2", None),
        ("bytes=--1", None),
        ("bytes=1-2,4-5", None),
        ("bytes=99999999999999999999-", None),
        ("bytes 0-1", None),
        ("lines=0-1", None),
        ("", None),
    ] {
        assert_eq!(range(value, 10), expected, "{value}");
    }
    assert_eq!(range("bytes=0-", 0), Some(Err(())));
    assert_eq!(range("bytes=-1", 0), Some(Err(())));
}
