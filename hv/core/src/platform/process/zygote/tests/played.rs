//! Simulated supervisors and zygotes.

use super::*;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use std::process::{Child as Sleep, Command};
use std::sync::Arc;
use std::thread::JoinHandle;

/// A process that does nothing, used in the simulations.
struct Sleeper(Sleep);

impl Sleeper {
    fn new() -> Sleeper {
        Sleeper(Command::new("sleep").arg("1000").spawn().expect("sleep(1) is everywhere"))
    }

    fn handle(&self) -> OwnedFd {
        let pid = Pid::from_raw(self.0.id() as i32).unwrap();
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap()
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let pair =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.unwrap();
    rustix::net::sockopt::set_socket_passcred(&ours, true).unwrap();
    (ours, theirs)
}

/// The other end of a channel.
struct End(OwnedFd, Socket);

impl End {
    fn new(socket: OwnedFd) -> End {
        let channel = Socket::new(socket.try_clone().unwrap());
        End(socket, channel)
    }

    /// The first word of the next message; `None` once the channel is closed.
    fn request(&self) -> Option<u64> {
        let mut bytes = [0; 4096];
        let len = rustix::io::retry_on_intr(|| rustix::net::recv(&self.0, &mut bytes, RecvFlags::empty()));
        let first = bytes[..8].try_into().unwrap();
        len.is_ok_and(|(_, len)| len > 0).then(|| u64::from_le_bytes(first))
    }

    fn say(&self, words: &[u64], handles: &[&OwnedFd]) {
        let handles: Vec<_> = handles.iter().map(|handle| handle.as_fd()).collect();
        // hv may have closed its end.
        let _ = self.1.send(words, &handles);
    }
}

/// What a zygote has: its end of the channel, the nonce of its greetings, the waiting process.
struct Stage {
    end: End,
    nonce: u64,
    waiting: OwnedFd,
}

impl Stage {
    fn greet(&self) {
        self.end.say(&[kind::WAITING, self.nonce, 0], &[&self.waiting]);
    }

    fn ready(&self, nonce: u64) {
        self.end.say(&[kind::READY, nonce, 0], &[]);
    }

    /// The next request, for a test in which there is one.
    fn request(&self) -> u64 {
        self.end.request().unwrap_or_default()
    }

    fn serve(&self) {
        self.greet();
        self.ready(self.request());
    }
}

/// The behaviour of a zygote.
type Part = fn(&Stage);

/// hv's side, with a simulated supervisor whose zygotes behave like this, and the processes whose pidfds they send.
struct Play {
    zygote: Zygote,
    waiting: Vec<Sleeper>,
    zygotes: Vec<Sleeper>,
    players: Vec<JoinHandle<()>>,
}

fn play(parts: &[Part]) -> Play {
    let (ours, theirs) = pair();
    let waiting: Vec<_> = parts.iter().map(|_| Sleeper::new()).collect();
    let zygotes: Vec<_> = parts.iter().map(|_| Sleeper::new()).collect();
    let cast: Vec<_> = parts
        .iter()
        .zip(waiting.iter().zip(&zygotes))
        .map(|(part, (waiting, zygote))| (*part, waiting.handle(), zygote.handle()))
        .collect();
    let supervisor = std::thread::spawn(move || {
        let end = End::new(theirs);
        let mut players = Vec::new();
        for (part, waiting, zygote) in cast {
            let Some(nonce) = end.request() else { break };
            let (hv, own) = pair();
            end.say(&[kind::CHANNEL, nonce, 0], &[&hv]);
            drop(hv);
            players.push(std::thread::spawn(move || {
                let stage = Stage { end: End::new(own), nonce, waiting };
                stage.end.say(&[kind::ZYGOTE, nonce, 0], &[&zygote]);
                part(&stage);
                // Until hv closes its end.
                while stage.end.request().is_some() {}
            }));
        }
        // If it is asked for more zygotes than there are, it does not answer.
        while end.request().is_some() {}
        players.into_iter().for_each(|player| player.join().unwrap());
    });
    let zygote = Zygote::of(supervised(ours), Namespaces::Own).unwrap();
    Play { zygote, waiting, zygotes, players: vec![supervisor] }
}

/// A supervisor at the other end of the socket: this process.
#[expect(clippy::zombie_processes, reason = "it is waited for where it is dropped, in `launch`")]
fn supervised(ours: OwnedFd) -> Supervisor {
    let sleep = Command::new("sleep").arg("1000").spawn().expect("sleep(1) is everywhere");
    let child = launch::handle(sleep.id() as i32).unwrap();
    Supervisor::new(Socket::new(ours), std::process::id() as i32, child)
}

impl Play {
    fn fork(&self) -> Result<Process, PlatformError> {
        fork(&self.zygote, &memory())
    }

    /// Expects that a process is this one.
    #[track_caller]
    fn is(&mut self, process: &Process, which: usize) {
        assert!(!self.waiting[which].has_ended());
        process.kill();
        eventually("the right process to end", || self.waiting[which].has_ended());
    }

    /// Expects that this zygote was ended.
    #[track_caller]
    fn is_poisoned(&mut self, which: usize) {
        eventually("the zygote to end", || self.zygotes[which].has_ended());
    }

    fn end(self) {
        drop(self.zygote);
        self.players.into_iter().for_each(|player| player.join().unwrap());
    }
}

/// The first zygote fails in this way: it is ended, and the start succeeds with the second one.
#[track_caller]
fn replaced(part: Part) {
    let mut play = play(&[part, Stage::serve]);
    let process = play.fork().unwrap();
    play.is_poisoned(0);
    play.is(&process, 1);
    // The process of the first zygote is not used by a guest.
    play.end();
}

/// The same, but the first start succeeds, and the second start detects the failure.
#[track_caller]
fn replaced_later(part: Part) {
    let mut play = play(&[part, Stage::serve]);
    let first = play.fork().unwrap();
    let second = play.fork().unwrap();
    play.is_poisoned(0);
    assert_eq!(first.number(), second.number(), "this process plays all");
    play.is(&second, 1);
    play.end();
}

#[test]
fn zygotes_that_do_as_they_should_are_kept() {
    let mut play = play(&[|stage| {
        stage.serve();
        stage.serve();
        // The greeting of the next process may come before the answer.
        stage.greet();
        let nonce = stage.request();
        stage.greet();
        stage.ready(nonce);
        stage.ready(stage.request());
    }]);
    for _ in 0..3 {
        play.fork().unwrap();
    }
    assert!(!play.zygotes[0].has_ended());
    let last = play.fork().unwrap();
    play.is(&last, 0);
    play.end();
}

#[test]
fn zygotes_that_say_nothing_are_replaced() {
    std::thread::scope(|scope| {
        let parts: [Part; 3] = [
            |_| {},
            |stage| stage.greet(),
            // The greeting, but the answer only when hv does not listen any more.
            |stage| {
                stage.greet();
                let nonce = stage.request();
                while stage.end.request().is_some() {}
                stage.ready(nonce);
            },
        ];
        for part in parts {
            scope.spawn(move || replaced(part));
        }
    });
}

#[test]
fn answers_to_other_requests_are_nobodys() {
    replaced(|stage| {
        stage.greet();
        stage.ready(stage.request().wrapping_sub(1));
    });
    replaced(|stage| {
        stage.greet();
        stage.request();
        stage.ready(stage.nonce);
    });
    replaced(|stage| {
        stage.end.say(&[kind::WAITING, stage.nonce ^ 1, 0], &[&stage.waiting]);
    });
    // An answer that comes twice, before and after the next greeting, and an answer that was not requested.
    replaced_later(|stage| {
        stage.greet();
        let nonce = stage.request();
        stage.ready(nonce);
        stage.ready(nonce);
        stage.greet();
        stage.request();
    });
    replaced_later(|stage| {
        stage.greet();
        let nonce = stage.request();
        stage.ready(nonce);
        stage.greet();
        stage.ready(nonce);
        stage.request();
    });
    replaced(|stage| stage.ready(stage.nonce));
}

#[test]
fn messages_of_another_form_poison_a_zygote() {
    replaced(|stage| stage.end.say(&[kind::WAITING, stage.nonce, 0], &[]));
    replaced(|stage| stage.end.say(&[kind::WAITING, stage.nonce, 0], &[&stage.waiting, &stage.waiting]));
    replaced(|stage| stage.end.say(&[kind::WAITING, stage.nonce], &[&stage.waiting]));
    replaced(|stage| stage.end.say(&[kind::WAITING, stage.nonce, 0, 0], &[&stage.waiting]));
    replaced(|stage| stage.end.say(&[kind::WAITING, stage.nonce, 0, 0, 0, 0, 0, 0], &[&stage.waiting]));
    replaced(|stage| stage.end.say(&[kind::WAITING, stage.nonce, 1], &[]));
    replaced(|stage| stage.end.say(&[kind::WAITING, stage.nonce, 0], &[&stage.waiting; 60]));
    replaced(|stage| {
        stage.greet();
        let nonce = stage.request();
        stage.end.say(&[kind::READY, nonce, 0], &[&stage.waiting]);
    });
    replaced(|stage| {
        stage.greet();
        let nonce = stage.request();
        stage.end.say(&[kind::READY, nonce, i64::MIN as u64], &[]);
    });
    replaced(|stage| {
        stage.greet();
        let nonce = stage.request();
        stage.end.say(&[kind::CHANNEL, nonce, 0], &[&stage.waiting]);
    });
}

#[test]
fn processes_that_end_between_steps_are_replaced() {
    let close = |stage: &Stage| {
        let _ = rustix::net::shutdown(&stage.end.0, rustix::net::Shutdown::Both);
    };
    replaced(close);
    replaced(|stage| {
        stage.greet();
        let _ = rustix::net::shutdown(&stage.end.0, rustix::net::Shutdown::Both);
    });
    replaced(|stage| {
        stage.greet();
        stage.request();
        let _ = rustix::net::shutdown(&stage.end.0, rustix::net::Shutdown::Both);
    });
    // The socket stays open, but the process that took the request is gone, or was gone when its greeting came.
    replaced(|stage| {
        stage.greet();
        stage.request();
        let _ = rustix::process::pidfd_send_signal(&stage.waiting, Signal::KILL);
    });
    replaced(|stage| {
        let mut gone = Sleeper::new();
        let handle = gone.handle();
        gone.0.kill().unwrap();
        gone.0.wait().unwrap();
        stage.end.say(&[kind::WAITING, stage.nonce, 0], &[&handle]);
    });
}

#[test]
fn an_error_that_is_told_is_told_on() {
    // The process could not map the memory: it ends, and its zygote makes the next one.
    let mut play = play(&[|stage| {
        stage.greet();
        let nonce = stage.request();
        stage.end.say(&[kind::READY, nonce, -i64::from(libc::ENOMEM) as u64], &[]);
        let next = Sleeper::new();
        stage.end.say(&[kind::WAITING, stage.nonce, 0], &[&next.handle()]);
        stage.ready(stage.request());
        while stage.end.request().is_some() {}
    }]);
    let error = play.fork().err().unwrap().to_string();
    assert!(error.contains("mapping a guest's memory"), "{error}");
    eventually("the process to end", || play.waiting[0].has_ended());
    play.fork().unwrap();
    assert!(!play.zygotes[0].has_ended());
    play.end();
}

#[test]
fn a_zygote_that_could_not_fork_is_tried_again_with_another() {
    fn cannot(stage: &Stage) {
        stage.end.say(&[kind::WAITING, stage.nonce, -i64::from(libc::EAGAIN) as u64], &[]);
    }
    replaced(cannot);
    let play = play(&[cannot, cannot, Stage::serve]);
    let error = play.fork().err().unwrap();
    assert!(matches!(&error, PlatformError::Process(ProcessError::Processes { .. })), "{error}");
    // Nothing of these zygotes remains.
    play.fork().unwrap();
    play.end();
}

#[test]
fn a_start_fails_that_finds_no_zygote_twice_and_the_next_does_not() {
    fn wrong(stage: &Stage) {
        stage.greet();
        stage.ready(stage.request() ^ 1);
    }
    let mut play = play(&[wrong, wrong, Stage::serve]);
    let error = play.fork().err().unwrap();
    assert!(matches!(&error, PlatformError::Process(ProcessError::Zygote(Violation::Nonce))), "{error}");
    play.is_poisoned(0);
    play.is_poisoned(1);
    let process = play.fork().unwrap();
    play.is(&process, 2);
    play.end();
}

#[test]
fn a_start_goes_on_where_several_zygotes_have_ended() {
    fn ends(stage: &Stage) {
        stage.greet();
        stage.request();
        let _ = rustix::net::shutdown(&stage.end.0, rustix::net::Shutdown::Both);
    }
    let mut play = play(&[ends, ends, ends, ends, Stage::serve]);
    let process = play.fork().unwrap();
    play.is(&process, 4);
    play.end();
}

#[test]
fn many_threads_are_each_given_a_process_of_their_own() {
    let play = Arc::new(play(&[|stage| {
        for _ in 0..64 {
            stage.serve();
        }
    }]));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..8).for_each(|_| drop(play.fork().unwrap())));
        }
    });
}

/// A supervisor that handles each request like this. Returns hv's resulting state.
fn supervisor(part: fn(&End, u64)) -> (Result<Serving, StartFailure>, JoinHandle<()>) {
    let (ours, theirs) = pair();
    let player = std::thread::spawn(move || {
        let end = End::new(theirs);
        while let Some(nonce) = end.request() {
            part(&end, nonce);
        }
    });
    let mut supervisor = supervised(ours);
    let mut nonces = Nonces::new().unwrap();
    (supervisor.make_zygote(&mut Patience::new(), &mut nonces), player)
}

#[test]
fn supervisors_that_fail_are_refused_in_one_line() {
    let parts: [fn(&End, u64); 9] = [
        |_, _| {},
        |end, nonce| end.say(&[kind::CHANNEL, nonce, 0], &[]),
        |end, nonce| end.say(&[kind::CHANNEL, nonce ^ 1, 0], &[&end.0]),
        |end, nonce| end.say(&[kind::READY, nonce, 0], &[]),
        |end, nonce| end.say(&[kind::CHANNEL, nonce], &[&end.0]),
        |end, nonce| end.say(&[kind::CHANNEL, nonce, -11i64 as u64], &[]),
        // Not a socket, and a socket without a peer.
        |end, nonce| end.say(&[kind::CHANNEL, nonce, 0], &[&Sleeper::new().handle()]),
        |end, nonce| end.say(&[kind::CHANNEL, nonce, 0], &[&pair().0]),
        |end, _| _ = rustix::net::shutdown(&end.0, rustix::net::Shutdown::Both),
    ];
    std::thread::scope(|scope| {
        for (n, part) in parts.into_iter().enumerate() {
            scope.spawn(move || {
                let (result, player) = supervisor(part);
                let error = result.err().expect("nothing of that is a zygote").into_error().to_string();
                assert!(error.starts_with("platform process: "), "{n}: {error}");
                assert!(!error.contains('\n') && error.len() < 250, "{n}: {error}");
                player.join().unwrap();
            });
        }
    });
}

/// Its late answer also serves the next request. Nothing is requested twice.
#[test]
fn a_late_supervisor_is_not_asked_again() {
    let (ours, theirs) = pair();
    let mut supervisor = supervised(ours);
    let mut nonces = Nonces::new().unwrap();
    let error = supervisor.make_zygote(&mut Patience::new(), &mut nonces).err().unwrap().into_error();
    assert!(matches!(&error, PlatformError::Process(ProcessError::Supervisor(Violation::Late))), "{error}");
    // For some time hv does not wait for it.
    supervisor.pause = Some(Instant::now() + Duration::from_secs(1000));
    assert!(supervisor.make_zygote(&mut Patience::new(), &mut nonces).is_err());
    let end = End::new(theirs);
    let nonce = end.request().unwrap();
    let ((hv, own), sleeper) = (pair(), Sleeper::new());
    end.say(&[kind::CHANNEL, nonce, 0], &[&hv]);
    let zygote = End::new(own);
    zygote.say(&[kind::ZYGOTE, nonce, 0], &[&sleeper.handle()]);
    supervisor.pause = None;
    let serving = supervisor.make_zygote(&mut Patience::new(), &mut nonces).ok().unwrap();
    assert_eq!(serving.nonce, nonce);
    drop(supervisor);
    assert_eq!(end.request(), None, "it was asked once");
}
