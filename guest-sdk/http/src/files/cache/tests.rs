use super::*;
use alloc::format;
use alloc::vec;

fn bytes(len: usize) -> Rc<[u8]> {
    vec![0; len].into()
}

#[test]
fn the_least_recently_used_goes_first() {
    let mut cache = Cache::new(3 * (100 + 2 * 2 + 128));
    for path in ["/a", "/b", "/c"] {
        cache.insert(path, bytes(100));
    }
    assert!(cache.get("/a").is_some());
    cache.insert("/d", bytes(100));
    assert!(cache.get("/b").is_none());
    for path in ["/a", "/c", "/d"] {
        assert!(cache.get(path).is_some(), "{path}");
    }
    // One that is there already changes nothing, nor does one that cannot fit.
    cache.insert("/a", bytes(1));
    assert_eq!(cache.get("/a").map(|bytes| bytes.len()), Some(100));
    cache.insert("/e", bytes(1000));
    assert!(cache.get("/e").is_none() && cache.get("/c").is_some());
}

#[test]
fn it_keeps_to_its_limit() {
    let mut cache = Cache::new(10_000);
    for n in 0..1000 {
        cache.insert(&format!("/file {n}"), bytes(n * 7 % 2000));
        assert!(cache.bytes <= 10_000);
        assert_eq!(cache.files.len(), cache.uses.len());
    }
    assert!(cache.get("/file 999").is_some());
}

#[test]
fn it_shrinks_when_it_is_asked_to() {
    let mut cache = Cache::new(10_000);
    (0..8).for_each(|n| cache.insert(&format!("/{n}"), bytes(1000)));
    cache.shrink(3500);
    assert!(cache.bytes() <= 3500 && cache.get("/7").is_some() && cache.get("/0").is_none());
    cache.shrink(0);
    assert_eq!((cache.bytes(), cache.files.len(), cache.uses.len()), (0, 0, 0));
}
