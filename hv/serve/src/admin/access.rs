//! Who may use the API.

use super::answer::untold;
use crate::config::ApiConfig;
use crate::front_response::FrontResponse;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, StatusCode};
use subtle::ConstantTimeEq;

/// Whether a request has the token. Without one in the configuration its connection has shown a certificate.
pub(super) fn is_allowed(api: &ApiConfig, headers: &HeaderMap) -> bool {
    let Some(token) = &api.token else { return true };
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else { return false };
    let Some((scheme, given)) = given.as_bytes().split_at_checked(7) else { return false };
    // How long it takes says how long the token is, and nothing else of it.
    scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.reveal()))
}

/// The answer to everybody else, whatever they did wrong.
pub(super) fn refusal() -> FrontResponse {
    untold(StatusCode::UNAUTHORIZED).with(WWW_AUTHENTICATE, "Bearer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Location;
    use hv_services::SecretBytes;

    #[test]
    fn the_token_has_to_be_the_same() {
        let mut api = ApiConfig {
            location: Location::File("hv.toml".into()),
            state: "state".into(),
            token: Some(SecretBytes::new(b"0123456789abcdef")),
            tls: None,
            upload: 1,
            requests: 1,
        };
        let allowed = |api: &ApiConfig, values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            is_allowed(api, &headers)
        };
        assert!(allowed(&api, &["Bearer 0123456789abcdef"]) && allowed(&api, &["bearer 0123456789abcdef"]));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Basic 0123456789abcdef",
            "Bearer  0123456789abcdef",
        ] {
            assert!(!allowed(&api, &[wrong]), "{wrong:?}");
        }
        assert!(!allowed(&api, &[]));
        assert!(!allowed(&api, &["Bearer 0123456789abcdef", "Bearer x"]), "two of them");
        api.token = None;
        assert!(allowed(&api, &[]), "TLS says who it is");
    }
}
