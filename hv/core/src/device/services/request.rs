//! What a call was opened for, copied and validated.

use hv_abi::io::services::{Condition, Operation, Parameters};
use zerocopy::FromBytes;

/// What a guest asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRequest {
    /// What for.
    pub operation: Operation,
    /// When a change is made.
    pub condition: Condition,
    /// See [`Operation`].
    pub first: u64,
    /// See [`Operation`].
    pub second: u64,
    /// The name of a binding, or of a host.
    pub name: String,
    /// The key.
    pub key: String,
    /// The key after which a list begins.
    pub after: String,
}

impl ServiceRequest {
    /// From the bytes of an open frame. The error is for the guest.
    pub(super) fn parse(code: u16, bytes: &[u8]) -> Result<ServiceRequest, &'static str> {
        let operation = Operation::from_number(code).ok_or("there is no such operation")?;
        let (parameters, strings) =
            Parameters::read_from_prefix(bytes).map_err(|_| "the parameters are too short")?;
        let condition = Condition::from_number(parameters.condition).ok_or("there is no such condition")?;
        let lengths = [parameters.name_len, parameters.key_len, parameters.after_len].map(usize::from);
        if lengths.iter().sum::<usize>() != strings.len() {
            return Err("the strings are not as long as the parameters say");
        }
        let mut rest = strings;
        let mut texts = lengths.map(|len| {
            let (text, after) = rest.split_at(len);
            rest = after;
            std::str::from_utf8(text).ok()
        });
        let mut text = |at: usize| texts[at].take().map(str::to_owned).ok_or("a string is not UTF-8");
        Ok(ServiceRequest {
            operation,
            condition,
            first: parameters.first,
            second: parameters.second,
            name: text(0)?,
            key: text(1)?,
            after: text(2)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    #[test]
    fn strings_are_as_long_as_the_parameters_say() {
        let open = |name_len, key_len, strings: &[u8]| {
            let parameters = Parameters { name_len, key_len, ..Parameters::default() };
            ServiceRequest::parse(1, &[parameters.as_bytes(), strings].concat())
        };
        let request = open(2, 3, b"abcde").unwrap();
        assert_eq!((&*request.name, &*request.key, &*request.after), ("ab", "cde", ""));
        assert!(open(2, 3, b"abcd").is_err());
        assert!(open(2, 3, b"abcdef").is_err());
        assert!(open(u16::MAX, u16::MAX, b"").is_err());
        assert!(open(1, 0, b"\xff").is_err());
        assert!(ServiceRequest::parse(1, &[0; 23]).is_err());
        assert!(ServiceRequest::parse(0, &[0; 24]).is_err());
        assert!(ServiceRequest::parse(99, &[0; 24]).is_err());
    }
}
