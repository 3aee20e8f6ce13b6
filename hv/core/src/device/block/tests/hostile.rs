//! Guests that break the protocol, each test named after what it does.

use super::*;
use hv_abi::io::block::*;
use hv_abi::ring::SharedMemory;

/// Offsets of the guest's own words in the ring: requests.prod, responses.cons.
const REQUESTS_PROD: usize = 0;
const RESPONSES_CONS: usize = 8;

fn each(test: impl Fn(&mut Rig)) {
    for engine in engines() {
        let folder = folder();
        let path = file(&folder, &pattern(1, 1 << 20));
        test(&mut Rig::new(&DiskSpec::new(path), engine));
    }
}

fn assert_terminated(rig: &mut Rig) {
    assert!(rig.device.poll(Instant::now()).is_none());
    let terminated = rig.diary.terminated.lock().unwrap().clone();
    assert_eq!(terminated.len(), 1, "{terminated:?}");
    assert!(terminated[0].starts_with("block device 3: ring index"), "{terminated:?}");
    // It stays dead, and says so once.
    rig.ring.store(REQUESTS_PROD, 1);
    assert!(rig.device.poll(Instant::now()).is_none());
    assert_eq!(rig.diary.terminated.lock().unwrap().len(), 1);
}

#[test]
fn request_index_too_far_ahead() {
    for index in [ENTRIES + 1, u32::MAX, 1 << 31] {
        each(|rig| {
            rig.ring.store(REQUESTS_PROD, index);
            assert_terminated(rig);
        });
    }
}

#[test]
fn request_index_goes_back() {
    each(|rig| {
        assert_eq!(rig.transfer(OP_FLUSH, 0, &[]), Ok(0));
        rig.ring.store(REQUESTS_PROD, 0);
        assert_terminated(rig);
    });
}

#[test]
fn response_index_ahead_of_the_responses() {
    each(|rig| {
        rig.ring.store(RESPONSES_CONS, 1);
        assert_terminated(rig);
    });
}

#[test]
fn index_breaks_while_requests_are_in_flight() {
    each(|rig| {
        let requests: Vec<_> =
            (0..16).map(|i| rig.request(OP_WRITE, i * 64, &[segment(DATA, 64 << 9)])).collect();
        rig.push(&requests);
        rig.ring.store(RESPONSES_CONS, 77);
        rig.device.poll(Instant::now());
        rig.device.poll(Instant::now());
        assert_eq!(rig.diary.terminated.lock().unwrap().len(), 1);
    });
}

#[test]
fn responses_are_never_fetched() {
    each(|rig| {
        // Twice as many requests as there is room for responses.
        let flush = rig.request(OP_FLUSH, 0, &[]);
        rig.push(&vec![flush; ENTRIES as usize]);
        let deadline = Instant::now() + Duration::from_secs(60);
        while rig.front.requests.room().unwrap() < ENTRIES || rig.device.in_flight() > 0 {
            rig.device.poll(Instant::now());
            assert!(Instant::now() < deadline);
        }
        rig.push(&vec![flush; ENTRIES as usize]);
        for _ in 0..100 {
            rig.device.poll(Instant::now());
        }
        assert_eq!(rig.device.in_flight(), 0, "nothing is taken without room for its response");
        assert_eq!(rig.front.requests.room().unwrap(), 0);
        assert!(rig.diary.terminated.lock().unwrap().is_empty());
        // With room it goes on.
        assert_eq!(rig.wait(2 * ENTRIES as usize).len(), 2 * ENTRIES as usize);
    });
}

#[test]
fn doorbells_without_requests() {
    each(|rig| {
        for _ in 0..1000 {
            rig.doorbell.write(1).unwrap();
            rig.device.poll(Instant::now());
        }
        assert_eq!(rig.transfer(OP_FLUSH, 0, &[]), Ok(0));
        assert!(rig.diary.terminated.lock().unwrap().is_empty());
    });
}

#[test]
fn the_first_request_rings_the_doorbell_and_the_response_wakes() {
    each(|rig| {
        let request = rig.request(OP_FLUSH, 0, &[]);
        rig.front.requests.push(&[request]).unwrap();
        assert!(rig.front.requests.publish(), "the doorbell is armed from the start");
        assert!(!rig.front.responses.wait_for_entries().unwrap());
        rig.wait(1);
        assert_eq!(*rig.diary.wakes.lock().unwrap(), 1);
    });
}

#[test]
fn the_guest_scribbles_over_the_devices_own_line() {
    each(|rig| {
        for word in 0..16 {
            rig.ring.store(hv_abi::ring::BACK_LINE + 4 * word, 0xdead_beef);
        }
        // The device believes none of it: only the guest itself is misled.
        let request = rig.request(OP_FLUSH, 0, &[]);
        let _ = rig.front.requests.push(&[request]);
        let _ = rig.front.requests.publish();
        for _ in 0..1000 {
            rig.device.poll(Instant::now());
        }
        assert!(rig.diary.terminated.lock().unwrap().is_empty());
    });
}

#[test]
fn two_requests_have_the_same_id() {
    each(|rig| {
        let request = rig.request(OP_READ, 0, &[segment(DATA, 512)]);
        rig.push(&[request, request]);
        let responses = rig.wait(2);
        assert!(responses.iter().all(|r| r.id == request.id && r.status == 0));
    });
}

#[test]
fn a_list_that_is_changed_after_publication() {
    each(|rig| {
        let segments = [segment(DATA, 512), segment(DATA + 512, 512), segment(DATA + 1024, 512)];
        let request = rig.request(OP_READ, 0, &segments);
        rig.push(&[request]);
        rig.device.poll(Instant::now());
        // It has been copied: what stands there now is of no interest.
        rig.poke(LIST, &[0xff; 48]);
        assert_eq!(rig.wait(1)[0].status, 0);
        assert!(rig.peek(DATA, 1536) == pattern(1, 1 << 20)[..1536]);
    });
}
