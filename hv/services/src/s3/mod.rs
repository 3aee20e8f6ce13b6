//! Blobs in a bucket of a service that speaks the protocol of Amazon S3.
//!
//! Requests are signed by their URLs (Signature Version 4 in the query), for five minutes each; bodies are not signed: TLS is what
//! protects them. A blob is one object, of one upload.

mod client;
mod question;

pub use client::CONNECTIONS as S3_CONNECTIONS;

use crate::dial::Dialer;
use crate::list::Page;
use crate::names::Names;
use crate::refusal::Refusal;
use crate::spec::S3Spec;
use crate::tls::TlsError;
use bytes::Bytes;
use client::{ANSWERING, Answered, Asked, Client, KEEPING, Outgoing, Trouble};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use hv_abi::io::services::{Answer, Status};
use hv_core::device::services::Call;
use question::{Question, range, refusal, whole_size};
use rusty_s3::Credentials;
use rusty_s3::actions::ListObjectsV2;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Blobs of at most so many bytes are kept until the service has them, so that they can be sent again.
const SMALL: u64 = 64 << 10;

/// Blobs in such a service.
pub(crate) struct S3Blobs {
    binding: String,
    spec: S3Spec,
    credentials: Credentials,
    client: Client,
}

impl S3Blobs {
    pub(crate) fn new(binding: &str, spec: &S3Spec, names: &Names) -> Result<S3Blobs, TlsError> {
        let text = |secret: &crate::SecretBytes| String::from_utf8_lossy(secret.reveal()).into_owned();
        let (key, secret) = (text(&spec.access_key), text(&spec.secret_key));
        let credentials = match &spec.session_token {
            Some(token) => Credentials::new_with_token(key, secret, text(token)),
            None => Credentials::new(key, secret),
        };
        let tls = spec.tls.as_ref().map(|tls| tls.client_config()).transpose()?;
        let url = spec.bucket.base_url();
        let host = url.host_str().unwrap_or_default();
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let dialer = Dialer::new(host, url.port_or_known_default().unwrap_or(80), names, tls);
        let client =
            Client::new(dialer, HeaderValue::from_str(&authority).expect("a host of a URL is ASCII"));
        Ok(S3Blobs { binding: binding.into(), spec: spec.clone(), credentials, client })
    }

    fn unreachable(&self, trouble: Trouble) -> Refusal {
        Refusal::Unreachable(self.binding.clone(), trouble.why())
    }

    fn asked(&self, method: Method, question: &Question<'_>) -> Asked {
        Asked { method, url: question.sign(&self.spec.bucket, &self.credentials), range: None }
    }

    /// Asks for what can be done twice.
    async fn ask(&self, asked: &Asked) -> Result<Answered, Refusal> {
        let answered = self.client.ask(asked, &Bytes::new(), ANSWERING).await;
        answered.map_err(|trouble| self.unreachable(trouble))
    }

    /// What it means that an answer is none of those that were hoped for.
    async fn refused(&self, answered: Answered) -> Refusal {
        let status = answered.head.status;
        let body = self.client.document(answered).await.unwrap_or_default();
        refusal(&self.binding, self.spec.bucket.name(), status, &body)
    }

    fn strange(&self, what: &str) -> Refusal {
        Refusal::new(Status::Failed, format!("binding {}: the service {what}", self.binding))
    }

    /// The size of an object.
    async fn size(&self, object: &str) -> Result<u64, Refusal> {
        let answered = self.ask(&self.asked(Method::HEAD, &Question::Head(object))).await?;
        if answered.head.status != StatusCode::OK {
            return Err(self.refused(answered).await);
        }
        let size = number(&answered, &CONTENT_LENGTH).ok_or_else(|| self.strange("tells no size"))?;
        self.client.done(answered);
        Ok(size)
    }

    pub(crate) async fn get(&self, call: &Call) -> Result<(), Refusal> {
        let request = call.request();
        let (first, count) = (request.first, request.second);
        let object = self.spec.object(&request.key)?;
        let mut asked = self.asked(Method::GET, &Question::Get(&object));
        asked.range = range(first, count);
        let nothing = async || {
            call.answer(Answer { version: 0, size: self.size(&object).await? });
            Ok(())
        };
        if count == 0 {
            return nothing().await;
        }
        let mut answered = self.ask(&asked).await?;
        let size = match (answered.head.status, &asked.range) {
            (StatusCode::OK, None) => number(&answered, &CONTENT_LENGTH),
            (StatusCode::PARTIAL_CONTENT, Some(_)) => {
                let field = answered.head.headers.get(CONTENT_RANGE);
                field.and_then(|field| whole_size(field.to_str().ok()?, first))
            }
            // It has no bytes there.
            (StatusCode::RANGE_NOT_SATISFIABLE, Some(_)) => return nothing().await,
            (StatusCode::OK, Some(_)) => return Err(self.strange("does not know ranges")),
            _ => return Err(self.refused(answered).await),
        };
        let size = size.ok_or_else(|| self.strange("tells no size"))?;
        call.answer(Answer { version: 0, size });
        let mut left = first.saturating_add(count).min(size).saturating_sub(first);
        while let Some(piece) = answered.piece().await.map_err(|trouble| self.unreachable(trouble))? {
            left = left
                .checked_sub(piece.len() as u64)
                .ok_or_else(|| self.strange("sends more than it was asked for"))?;
            call.send(&piece).await?;
        }
        if left > 0 {
            return Err(self.strange("sends less than it has"));
        }
        self.client.done(answered);
        Ok(())
    }

    pub(crate) async fn put(&self, call: &Call) -> Result<(), Refusal> {
        let (object, size) = (self.spec.object(&call.request().key)?, call.request().second);
        let asked = self.asked(Method::PUT, &Question::Put(&object));
        let answered = match size <= SMALL {
            true => {
                let body = crate::store::receive(call, size).await?;
                let answered = self.client.ask(&asked, &body.into(), KEEPING).await;
                answered.map_err(|trouble| self.unreachable(trouble))?
            }
            false => self.put_pieces(call, size, &asked).await?,
        };
        match answered.head.status.is_success() {
            true => {
                self.client.document(answered).await.map_err(|trouble| self.unreachable(trouble))?;
                Ok(())
            }
            // There is no object to be missing.
            false if answered.head.status == StatusCode::NOT_FOUND => {
                let name = self.spec.bucket.name();
                Err(Refusal::Unreachable(self.binding.clone(), format!("the service has no bucket {name}")))
            }
            false => Err(self.refused(answered).await),
        }
    }

    /// Passes a large blob on while it comes. What is given up on the way is no object: the service gets fewer bytes than it was told.
    async fn put_pieces(&self, call: &Call, size: u64, asked: &Asked) -> Result<Answered, Refusal> {
        let (sender, pieces) = mpsc::channel(1);
        let sent = self.client.once(asked, Outgoing::Pieces(size, pieces), KEEPING, true);
        tokio::pin!(sent);
        let passing = async {
            let mut left = size;
            while let Some(piece) = call.data().await? {
                left = left.checked_sub(piece.len() as u64).ok_or_else(unannounced)?;
                // It is taken once the piece before is on its way.
                match timeout(ANSWERING, sender.send(piece.into())).await {
                    Ok(Ok(())) => {}
                    // It has answered already.
                    Ok(Err(_)) => return std::future::pending().await,
                    Err(_) => return Err(self.unreachable(Trouble::Silent)),
                }
            }
            if left > 0 { Err(unannounced()) } else { Ok(()) }
        };
        let answered = tokio::select! {
            biased;
            answered = &mut sent => match answered {
                Ok(answered) if answered.head.status.is_success() => {
                    return Err(self.strange("acknowledges a blob that it has not got"));
                }
                answered => answered,
            },
            passed = passing => {
                passed?;
                drop(sender);
                timeout(KEEPING, sent).await.unwrap_or(Err(Trouble::Silent))
            }
        };
        answered.map_err(|trouble| self.unreachable(trouble))
    }

    /// Removes an object. The service does not tell whether there was one: hv looks before.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), Refusal> {
        let object = self.spec.object(key)?;
        self.size(&object).await?;
        let answered = self.ask(&self.asked(Method::DELETE, &Question::Delete(&object))).await?;
        match answered.head.status.is_success() {
            true => {
                self.client.document(answered).await.map_err(|trouble| self.unreachable(trouble))?;
                Ok(())
            }
            false => Err(self.refused(answered).await),
        }
    }

    /// The keys that begin so.
    pub(crate) async fn list(&self, prefix: &str, after: &str, mut page: Page) -> Result<Page, Refusal> {
        let prefix = format!("{}{prefix}", self.spec.prefix);
        let mut after = if after.is_empty() { String::new() } else { format!("{}{after}", self.spec.prefix) };
        while page.lacks() > 0 {
            let question = Question::List { prefix: &prefix, after: &after, most: page.lacks() };
            let answered = self.ask(&self.asked(Method::GET, &question)).await?;
            if answered.head.status != StatusCode::OK {
                let refused = self.refused(answered).await;
                return Err(match refused {
                    Refusal::Status(Status::NotFound, _) => self.strange("has no such list"),
                    refused => refused,
                });
            }
            let document =
                self.client.document(answered).await.map_err(|trouble| self.unreachable(trouble))?;
            let text = std::str::from_utf8(&document).map_err(|_| self.strange("answers with no list"))?;
            let list =
                ListObjectsV2::parse_response(text).map_err(|_| self.strange("answers with no list"))?;
            let Some(last) = list.contents.last().map(|object| object.key.clone()) else { break };
            // A service that does not go on would be asked for ever.
            if last <= after {
                return Err(self.strange("lists the same keys again"));
            }
            after = last;
            for object in list.contents {
                let key = object.key.strip_prefix(&self.spec.prefix);
                // Others may have put objects there that no guest can name.
                if let Some(key) =
                    key.filter(|key| crate::store::is_key(key) && self.spec.object(key).is_ok())
                {
                    page.offer(key.into(), object.size.unwrap_or(0));
                }
            }
            if list.next_continuation_token.is_none() {
                break;
            }
        }
        Ok(page)
    }
}

fn unannounced() -> Refusal {
    Refusal::new(Status::Invalid, "it has not as many bytes as were announced")
}

fn number(answered: &Answered, name: &HeaderName) -> Option<u64> {
    answered.head.headers.get(name)?.to_str().ok()?.parse().ok()
}
