//! The head of a request.

/// Header fields of a request that are enough for nearly everybody, and the most that there can be.
const USUAL_FIELDS: usize = 16;
const MOST_FIELDS: usize = 128;

/// The head of a request, validated; its fields are looked up where they stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    /// Header lines, each ended by a line feed, and the empty line.
    fields: &'a [u8],
}

impl<'a> Head<'a> {
    /// Validates a head. What is not one is to be refused with the status that comes instead.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Head<'a>, u16> {
        match parse::<USUAL_FIELDS>(bytes) {
            Err(431) => parse_many(bytes),
            result => result,
        }
    }

    /// Names and values of the header fields, in their order.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.fields.split(|byte| *byte == b'\n').map_while(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let (name, value) = line.split_at(colon);
            Some((core::str::from_utf8(name).ok()?, value[1..].trim_ascii()))
        })
    }
}

/// A function of its own, so that its large table is on the stack only when it is needed.
#[cold]
#[inline(never)]
fn parse_many(bytes: &[u8]) -> Result<Head<'_>, u16> {
    parse::<MOST_FIELDS>(bytes)
}

fn parse<const FIELDS: usize>(bytes: &[u8]) -> Result<Head<'_>, u16> {
    let mut fields = [const { core::mem::MaybeUninit::uninit() }; FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(httparse::Error::Version) => return Err(505),
        // Bytes behind the empty line, or no empty line: this is not one head.
        Ok(_) | Err(_) => return Err(400),
    }
    let line = bytes.iter().position(|byte| *byte == b'\n').ok_or(400u16)?;
    Ok(Head {
        method: request.method.ok_or(400u16)?,
        target: request.path.ok_or(400u16)?,
        fields: &bytes[line + 1..],
    })
}
