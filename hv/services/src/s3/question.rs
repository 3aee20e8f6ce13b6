//! What a service of the S3 kind is asked, and what its answers mean. Pure.

use crate::refusal::Refusal;
use crate::spec::S3Spec;
use http::StatusCode;
use hv_abi::io::services::Status;
use rusty_s3::{Bucket, Credentials, S3Action};
use std::time::Duration;
use url::Url;

/// How long a signature holds. It is made for one request, and for clocks that differ a little.
const SIGNED: Duration = Duration::from_secs(300);

/// What is signed for.
pub(super) enum Question<'a> {
    Get(&'a str),
    Head(&'a str),
    Put(&'a str),
    Delete(&'a str),
    List { prefix: &'a str, after: &'a str, most: usize },
}

impl Question<'_> {
    /// Its URL, with the signature in it.
    pub(super) fn sign(&self, bucket: &Bucket, credentials: &Credentials) -> Url {
        let with = Some(credentials);
        match self {
            Question::Get(key) => bucket.get_object(with, key).sign(SIGNED),
            Question::Head(key) => bucket.head_object(with, key).sign(SIGNED),
            Question::Put(key) => bucket.put_object(with, key).sign(SIGNED),
            Question::Delete(key) => bucket.delete_object(with, key).sign(SIGNED),
            Question::List { prefix, after, most } => {
                let mut list = bucket.list_objects_v2(with);
                list.with_max_keys(*most);
                if !prefix.is_empty() {
                    list.with_prefix(*prefix);
                }
                if !after.is_empty() {
                    list.with_start_after(*after);
                }
                list.sign(SIGNED)
            }
        }
    }
}

impl S3Spec {
    /// The key of an object. A guest's key leads nowhere but below the prefix: URLs resolve `.` and `..`.
    pub(super) fn object(&self, key: &str) -> Result<String, Refusal> {
        let object = format!("{}{key}", self.prefix);
        match object.split('/').any(|part| part == "." || part == "..") {
            true => Err(Refusal::new(Status::Invalid, "a key has no part that is . or .. between slashes")),
            false => Ok(object),
        }
    }
}

/// A field `Range` for these bytes; `None`: all are wanted.
pub(super) fn range(first: u64, count: u64) -> Option<String> {
    // Beyond that nobody counts: it means the end.
    const END: u64 = i64::MAX as u64;
    match first.saturating_add(count) {
        end if end < END => Some(format!("bytes={first}-{}", end.max(first + 1) - 1)),
        _ if first > 0 => Some(format!("bytes={first}-")),
        _ => None,
    }
}

/// The size of the whole, as a field `Content-Range` tells it, if it begins where it was asked to.
pub(super) fn whole_size(content_range: &str, first: u64) -> Option<u64> {
    let (range, size) = content_range.strip_prefix("bytes ")?.split_once('/')?;
    let begins = range.split_once('-')?.0.parse::<u64>().ok()?;
    size.parse().ok().filter(|size| begins == first && first < *size)
}

/// Whether the same question may have another answer in a moment.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

/// Why a question was not answered, as a service tells it: a code such as `NoSuchBucket`.
pub(super) fn code(body: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(body).ok()?;
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let is_code = (1..=64).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    is_code.then_some(code)
}

/// What a status other than success means.
pub(super) fn refusal(binding: &str, bucket: &str, status: StatusCode, body: &[u8]) -> Refusal {
    let code = code(body);
    let told = || code.map_or_else(|| status.as_u16().to_string(), |code| format!("{status}, {code}"));
    let unreachable = |why: String| Refusal::Unreachable(binding.into(), why);
    match (status.as_u16(), code) {
        (404, Some("NoSuchBucket")) => unreachable(format!("the service has no bucket {bucket}")),
        (404, _) => Refusal::new(Status::NotFound, ""),
        (301 | 307 | 308, _) => {
            unreachable(format!("the bucket {bucket} is elsewhere ({}): look at `url` and `region`", told()))
        }
        (401 | 403, _)
        | (
            400,
            Some(
                "AuthorizationQueryParametersError"
                | "AuthorizationHeaderMalformed"
                | "ExpiredToken"
                | "InvalidToken",
            ),
        ) => unreachable(format!("the service does not let hv in ({})", told())),
        _ if is_passing(status) => unreachable(format!("the service answers {}", told())),
        _ => Refusal::new(Status::Failed, format!("binding {binding}: the service answers {}", told())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Addressing, SecretBytes};
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    fn spec() -> S3Spec {
        S3Spec {
            bucket: S3Spec::bucket("http://s3.test:9000/base", "pictures", Addressing::Path, "eu-test-1")
                .unwrap(),
            access_key: SecretBytes::new(b"AK"),
            secret_key: SecretBytes::new(b"sesame"),
            session_token: None,
            prefix: "shop/".into(),
            tls: None,
        }
    }

    #[test]
    fn ranges_and_sizes() {
        assert_eq!(range(0, u64::MAX), None);
        assert_eq!(range(5, u64::MAX).unwrap(), "bytes=5-");
        assert_eq!(range(5, u64::MAX - 5).unwrap(), "bytes=5-");
        assert_eq!(range(0, 1).unwrap(), "bytes=0-0");
        assert_eq!(whole_size("bytes 5-9/10", 5), Some(10));
        for wrong in ["bytes 5-9/*", "bytes */10", "bytes 4-9/10", "items 5-9/10", "bytes 5-9/3", ""] {
            assert_eq!(whole_size(wrong, 5), None, "{wrong}");
        }
    }

    #[test]
    fn what_services_say() {
        let body = b"<?xml version='1.0'?><Error><Code>NoSuchBucket</Code><Message>x</Message></Error>";
        assert_eq!(code(body), Some("NoSuchBucket"));
        assert_eq!(code(b"<Code>a b</Code>"), None);
        assert_eq!(code(b"<Code>\xff</Code>"), None);
        assert_eq!(code(b"<Code>"), None);
        let refused =
            |status: u16, body: &[u8]| refusal("b", "pictures", StatusCode::from_u16(status).unwrap(), body);
        assert_eq!(refused(404, b""), Refusal::new(Status::NotFound, ""));
        assert!(matches!(refused(404, body), Refusal::Unreachable(name, _) if name == "b"));
        for status in [301, 403, 429, 500, 503] {
            assert!(matches!(refused(status, b""), Refusal::Unreachable(..)), "{status}");
        }
        assert!(matches!(refused(400, b""), Refusal::Status(Status::Failed, _)));
        assert!(matches!(refused(400, b"<Code>ExpiredToken</Code>"), Refusal::Unreachable(..)));
    }

    #[test]
    fn a_signature_is_that_of_the_published_example() {
        // The example of a presigned URL in Amazon's description of the signature's version 4.
        let bucket =
            S3Spec::bucket("https://s3.amazonaws.com", "examplebucket", Addressing::VirtualHost, "us-east-1")
                .unwrap();
        let credentials =
            Credentials::new("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
        let time = "2013-05-24T00:00:00Z".parse().unwrap();
        let action = bucket.get_object(Some(&credentials), "test.txt");
        let url = action.sign_with_time(Duration::from_secs(86400), &time);
        let signature = "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
        assert_eq!(url.host_str(), Some("examplebucket.s3.amazonaws.com"));
        assert!(url.as_str().ends_with(&format!("X-Amz-Signature={signature}")), "{url}");
    }

    #[test]
    fn keys_that_urls_would_resolve_are_refused() {
        let spec = spec();
        for key in ["..", "../other/secret", "a/../../../etc", "./a", "a/.", "a/.."] {
            assert!(spec.object(key).is_err(), "{key}");
        }
        for key in ["...", "a..b", ".a/b.", "/..a", "a//b", "%2e%2e/a"] {
            assert!(spec.object(key).is_ok(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn a_key_leads_to_its_own_object_alone(key in "\\PC{1,60}|[/.%\\\\?#\\t\\n\\r\0 a:@]{1,12}") {
            let spec = spec();
            if let Ok(object) = spec.object(&key) {
                let url = Question::Get(&object).sign(&spec.bucket, &Credentials::new("AK", "sesame"));
                prop_assert_eq!(url.host_str(), Some("s3.test"));
                prop_assert_eq!(url.fragment(), None);
                let path = percent_decode_str(url.path()).decode_utf8().unwrap();
                prop_assert_eq!(path, format!("/base/pictures/shop/{key}"));
            }
        }

        #[test]
        fn any_answer_is_understood_or_not(text in "\\PC{0,80}", first: u64, status in 100..599_u16, body: Vec<u8>) {
            let _ = whole_size(&text, first);
            let _ = refusal("b", "pictures", StatusCode::from_u16(status).unwrap(), &body);
        }
    }
}
