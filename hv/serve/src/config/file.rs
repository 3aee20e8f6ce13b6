//! The shape of `hv.toml`: which keys there are, and of which type.

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) listen: Option<Spanned<Strings>>,
    pub(super) listen_tls: Option<Spanned<Strings>>,
    pub(super) proxy_protocol: Option<Spanned<Strings>>,
    #[serde(default)]
    pub(super) certificate: Vec<Spanned<CertificateSection>>,
    pub(super) admin: Option<Spanned<String>>,
    pub(super) api: Option<Spanned<ApiSection>>,
    pub(super) telemetry: Option<Spanned<TelemetrySection>>,
    pub(super) log: Option<Spanned<String>>,
    pub(super) log_format: Option<Spanned<String>>,
    pub(super) handover: Option<Spanned<String>>,
    pub(super) drain: Option<Spanned<Scalar>>,
    pub(super) header_time: Option<Spanned<Scalar>>,
    pub(super) connections: Option<Spanned<u32>>,
    pub(super) client_connections: Option<Spanned<u32>>,
    pub(super) client_rate: Option<Spanned<u32>>,
    pub(super) guests: Option<Spanned<u32>>,
    pub(super) memory: Option<Spanned<Scalar>>,
    #[serde(default)]
    pub(super) tenant: BTreeMap<Spanned<String>, TenantSection>,
    pub(super) name_servers: Option<Spanned<Strings>>,
    #[serde(default)]
    pub(super) store: BTreeMap<Spanned<String>, StoreSection>,
    #[serde(default)]
    pub(super) blob: BTreeMap<Spanned<String>, BlobSection>,
    #[serde(default)]
    pub(super) function: BTreeMap<Spanned<String>, FunctionSection>,
}

/// A table `[[certificate]]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CertificateSection {
    pub(super) chain: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) names: Option<Spanned<Strings>>,
}

/// The table `[api]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiSection {
    pub(super) state: Option<Spanned<String>>,
    pub(super) token: Option<Spanned<String>>,
    pub(super) chain: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) clients: Option<Spanned<String>>,
    pub(super) upload: Option<Spanned<Scalar>>,
    pub(super) requests: Option<Spanned<u32>>,
}

/// The table `[telemetry]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TelemetrySection {
    pub(super) endpoint: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) headers: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) ca: Option<Spanned<String>>,
    pub(super) chain: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) service: Option<Spanned<String>>,
    pub(super) interval: Option<Spanned<Scalar>>,
    pub(super) sample: Option<Spanned<u32>>,
}

/// A table `[tenant.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantSection {
    pub(super) weight: Option<Spanned<u32>>,
    pub(super) cap: Option<Spanned<u32>>,
    pub(super) quota: Option<Spanned<String>>,
    pub(super) concurrency: Option<Spanned<u32>>,
    pub(super) queue: Option<Spanned<u32>>,
    pub(super) memory: Option<Spanned<Scalar>>,
    pub(super) store: Option<Spanned<Strings>>,
    pub(super) blob: Option<Spanned<Strings>>,
    #[serde(default)]
    pub(super) secrets: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) operations: Option<Spanned<u32>>,
    pub(super) net_connections: Option<Spanned<u32>>,
    pub(super) net_rate: Option<Spanned<Scalar>>,
}

/// A table `[function.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FunctionSection {
    pub(super) path: Option<Spanned<Strings>>,
    pub(super) methods: Option<Spanned<Strings>>,
    pub(super) image: Option<Spanned<String>>,
    pub(super) snapshot: Option<Spanned<String>>,
    pub(super) memory: Option<Spanned<Scalar>>,
    pub(super) stack: Option<Spanned<Scalar>>,
    pub(super) share_equal_pages: Option<Spanned<bool>>,
    pub(super) args: Option<Spanned<Strings>>,
    pub(super) disks: Option<Spanned<Strings>>,
    #[serde(default)]
    pub(super) env: BTreeMap<Spanned<String>, Scalar>,
    pub(super) tenant: Option<Spanned<String>>,
    pub(super) isolation: Option<Spanned<String>>,
    pub(super) idle: Option<Spanned<Scalar>>,
    pub(super) console: Option<Spanned<String>>,
    pub(super) weight: Option<Spanned<u32>>,
    pub(super) cap: Option<Spanned<u32>>,
    pub(super) quota: Option<Spanned<String>>,
    pub(super) cpu_time: Option<Spanned<Scalar>>,
    pub(super) wall_time: Option<Spanned<Scalar>>,
    pub(super) ready_time: Option<Spanned<Scalar>>,
    pub(super) body: Option<Spanned<Scalar>>,
    pub(super) concurrency: Option<Spanned<u32>>,
    pub(super) min_warm: Option<Spanned<u32>>,
    pub(super) max_instances: Option<Spanned<u32>>,
    pub(super) queue: Option<Spanned<u32>>,
    pub(super) queue_time: Option<Spanned<Scalar>>,
    pub(super) store: Option<Spanned<Strings>>,
    pub(super) blob: Option<Spanned<Strings>>,
    #[serde(default)]
    pub(super) secrets: BTreeMap<Spanned<String>, Spanned<String>>,
    pub(super) net: Option<Spanned<Strings>>,
    pub(super) net_connections: Option<Spanned<u32>>,
    pub(super) net_bytes: Option<Spanned<Scalar>>,
    pub(super) net_rate: Option<Spanned<Scalar>>,
}

/// A table `[store.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoreSection {
    pub(super) folder: Option<Spanned<String>>,
    pub(super) url: Option<Spanned<String>>,
    pub(super) user: Option<Spanned<String>>,
    pub(super) password: Option<Spanned<String>>,
    pub(super) prefix: Option<Spanned<String>>,
    pub(super) ca: Option<Spanned<String>>,
    pub(super) chain: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) value: Option<Spanned<Scalar>>,
    pub(super) bytes: Option<Spanned<Scalar>>,
    pub(super) operations: Option<Spanned<u32>>,
}

/// A table `[blob.NAME]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BlobSection {
    pub(super) folder: Option<Spanned<String>>,
    pub(super) url: Option<Spanned<String>>,
    pub(super) bucket: Option<Spanned<String>>,
    pub(super) region: Option<Spanned<String>>,
    pub(super) addressing: Option<Spanned<String>>,
    pub(super) access_key: Option<Spanned<String>>,
    pub(super) secret_key: Option<Spanned<String>>,
    pub(super) session_token: Option<Spanned<String>>,
    pub(super) prefix: Option<Spanned<String>>,
    pub(super) ca: Option<Spanned<String>>,
    pub(super) chain: Option<Spanned<String>>,
    pub(super) key: Option<Spanned<String>>,
    pub(super) value: Option<Spanned<Scalar>>,
    pub(super) bytes: Option<Spanned<Scalar>>,
    pub(super) operations: Option<Spanned<u32>>,
}

/// A string, or a number that means the same: `5` is `"5"`.
#[derive(Clone, Debug)]
pub(super) struct Scalar(pub(super) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a number")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.into()))
            }
            fn visit_i64<E: Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// A string, or an array of strings.
#[derive(Debug)]
pub(super) struct Strings(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Strings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings(vec![text.into()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strings, A::Error> {
                let mut all = Vec::new();
                while let Some(one) = seq.next_element()? {
                    all.push(one);
                }
                Ok(Strings(all))
            }
        }
        deserializer.deserialize_any(List)
    }
}
