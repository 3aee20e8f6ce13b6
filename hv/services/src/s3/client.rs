//! Requests to a service of the S3 kind: connections that are used again, and second tries where nothing can go wrong by them.

use super::question::is_passing;
use crate::dial::Dialer;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, RANGE};
use http::{Method, Request};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{sleep, timeout};
use url::Url;

/// How long a connection may take, TLS included.
const CONNECTING: Duration = Duration::from_secs(2);

/// How long an answer, or a further part of one, may take.
pub(super) const ANSWERING: Duration = Duration::from_secs(5);

/// How long the acknowledgement of an object may take: the service has it on its disks by then.
pub(super) const KEEPING: Duration = Duration::from_secs(30);

/// How often a question is asked at most.
const ATTEMPTS: u32 = 3;

/// The time to the second try. It doubles.
const PAUSE: Duration = Duration::from_millis(100);

/// Most connections of a binding at a time: each takes a descriptor of the server.
pub const CONNECTIONS: usize = 64;

/// Connections that are kept for the next requests, and how long: services close those that are idle.
const IDLE: usize = 16;
const IDLE_TIME: Duration = Duration::from_secs(10);

/// Most bytes of a document: a list, or a description of what is wrong.
const DOCUMENT: usize = 2 << 20;

/// A request.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) range: Option<String>,
}

/// The body of a request.
pub(super) enum Outgoing {
    /// All of it, which can be sent again.
    Whole(Bytes),
    /// So many bytes, as they come.
    Pieces(u64, mpsc::Receiver<Bytes>),
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Outgoing::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Outgoing::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Outgoing::Pieces(_, pieces) => {
                pieces.poll_recv(context).map(|piece| Some(Ok(Frame::data(piece?))))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Outgoing::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // Not exact: one that is given up has fewer.
            Outgoing::Pieces(..) => SizeHint::new(),
        }
    }
}

impl Outgoing {
    fn len(&self) -> u64 {
        match self {
            Outgoing::Whole(bytes) => bytes.len() as u64,
            Outgoing::Pieces(len, _) => *len,
        }
    }
}

/// Why there is no answer.
pub(super) enum Trouble {
    /// The service is not reached, or has gone away. Asking again may help.
    Gone(String),
    /// It does not answer in time.
    Silent,
}

impl Trouble {
    pub(super) fn why(self) -> String {
        match self {
            Trouble::Gone(why) => why,
            Trouble::Silent => "it does not answer".into(),
        }
    }
}

/// An answer whose body is still to come.
pub(super) struct Answered {
    pub(super) head: http::response::Parts,
    body: Incoming,
    connection: Connection,
}

/// A connection, in a seat.
struct Connection {
    sender: SendRequest<Outgoing>,
    _seat: OwnedSemaphorePermit,
}

/// Speaks with one service.
pub(super) struct Client {
    dialer: Dialer,
    host: HeaderValue,
    seats: Arc<Semaphore>,
    idle: Mutex<Vec<(SendRequest<Outgoing>, Instant)>>,
}

impl Client {
    pub(super) fn new(dialer: Dialer, host: HeaderValue) -> Client {
        Client { dialer, host, seats: Arc::new(Semaphore::new(CONNECTIONS)), idle: Mutex::default() }
    }

    /// Asks, and asks again a few times if the service is in trouble: for what can be done twice.
    pub(super) async fn ask(
        &self,
        asked: &Asked,
        body: &Bytes,
        patience: Duration,
    ) -> Result<Answered, Trouble> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let body = Outgoing::Whole(body.clone());
            let result = self.once(asked, body, patience, false).await;
            let again = match &result {
                Ok(answered) => is_passing(answered.head.status),
                Err(Trouble::Gone(_)) => true,
                Err(Trouble::Silent) => false,
            };
            if !again || attempt == ATTEMPTS {
                return result;
            }
            drop(result);
            sleep(PAUSE * 2_u32.pow(attempt - 1)).await;
        }
    }

    /// Asks once. A connection that was idle may be gone: a body that cannot be sent again gets a new one.
    pub(super) async fn once(
        &self,
        asked: &Asked,
        body: Outgoing,
        patience: Duration,
        new: bool,
    ) -> Result<Answered, Trouble> {
        let mut connection = self.connection(new).await?;
        let is_piecemeal = matches!(body, Outgoing::Pieces(..));
        let sent = connection.sender.send_request(self.request(asked, body));
        let answer = match is_piecemeal {
            // Whoever sends the pieces knows how long they may take.
            true => sent.await,
            false => timeout(patience, sent).await.map_err(|_| Trouble::Silent)?,
        };
        let answer = answer.map_err(|error| {
            // The others that were idle are gone as well.
            self.idle.lock().expect("no panic while held").clear();
            Trouble::Gone(format!("it does not answer as a service of this kind: {error}"))
        })?;
        let (head, body) = answer.into_parts();
        Ok(Answered { head, body, connection })
    }

    fn request(&self, asked: &Asked, body: Outgoing) -> Request<Outgoing> {
        let length = body.len();
        let mut request = Request::new(body);
        *request.method_mut() = asked.method.clone();
        let target = &asked.url[url::Position::BeforePath..url::Position::AfterQuery];
        *request.uri_mut() = target.parse().expect("a URL has a path and a query");
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        if asked.method == Method::PUT {
            headers.insert(CONTENT_LENGTH, length.into());
        }
        if let Some(range) = &asked.range {
            headers.insert(RANGE, range.parse().expect("a range is ASCII"));
        }
        request
    }

    async fn connection(&self, new: bool) -> Result<Connection, Trouble> {
        let seat = timeout(ANSWERING, self.seats.clone().acquire_owned()).await;
        let seat = seat.map_err(|_| Trouble::Gone("all connections to it are busy".into()))?;
        let _seat = seat.expect("seats are never closed");
        if !new {
            while let Some(mut sender) = self.take_idle() {
                if timeout(CONNECTING, sender.ready()).await.is_ok_and(|ready| ready.is_ok()) {
                    return Ok(Connection { sender, _seat });
                }
            }
        }
        let made = timeout(CONNECTING, async {
            let stream = self.dialer.connect().await?;
            handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())
        });
        let made = made.await.map_err(|_| Trouble::Silent)?;
        let (sender, work) = made.map_err(Trouble::Gone)?;
        tokio::spawn(async move {
            if let Err(error) = work.await {
                tracing::debug!("a connection to a service of the S3 kind: {error}");
            }
        });
        Ok(Connection { sender, _seat })
    }

    fn take_idle(&self) -> Option<SendRequest<Outgoing>> {
        let idle = &mut *self.idle.lock().expect("no panic while held");
        idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE_TIME);
        Some(idle.pop()?.0)
    }

    /// The rest of an answer that is a document.
    pub(super) async fn document(&self, mut answered: Answered) -> Result<Vec<u8>, Trouble> {
        let mut document = Vec::new();
        while let Some(piece) = answered.piece().await? {
            document.extend_from_slice(&piece);
            if document.len() > DOCUMENT {
                return Err(Trouble::Gone(
                    "it answers at a length that no service of this kind needs".into(),
                ));
            }
        }
        self.done(answered);
        Ok(document)
    }

    /// All of an answer has been read, or it has no body: the connection can be used again.
    pub(super) fn done(&self, answered: Answered) {
        let idle = &mut *self.idle.lock().expect("no panic while held");
        if idle.len() < IDLE {
            idle.push((answered.connection.sender, Instant::now()));
        }
    }
}

impl Answered {
    /// A further piece of the body; `None`: that was all.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            let mut body = pin!(&mut self.body);
            let frame = timeout(ANSWERING, poll_fn(|context| body.as_mut().poll_frame(context))).await;
            match frame.map_err(|_| Trouble::Silent)? {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
                Some(Err(error)) => return Err(Trouble::Gone(format!("its answer broke off: {error}"))),
            }
        }
    }
}
