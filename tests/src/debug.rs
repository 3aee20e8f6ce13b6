//! Images with debug information that is made to cost its reader as much as possible.

/// What there is without end, or nearly so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endless {
    /// Files of a line number program: 2^60, of no bytes each.
    Files,
    /// Rows of a line number program: one for each byte.
    Rows,
    /// Attributes: thousands for each byte.
    Attributes,
    /// Functions in functions.
    Depth,
    /// Units, with a large table of abbreviations that they share.
    Units,
    /// Ranges of a unit.
    Ranges,
}

impl Endless {
    /// Each of them.
    pub const ALL: [Endless; 6] =
        [Endless::Files, Endless::Rows, Endless::Attributes, Endless::Depth, Endless::Units, Endless::Ranges];
}

/// An image's code and symbols, with this debug information of about `size` bytes instead of its own.
///
/// All of the code belongs to it, so that every crash of the guest leads there.
pub fn with_debug_info(image: &[u8], endless: Endless, size: usize) -> Vec<u8> {
    let (mut abbrev, mut info, mut line, mut ranges) =
        (abbreviations(endless), Vec::new(), Vec::new(), Vec::new());
    match endless {
        Endless::Files => {
            line = program(&[&[1, 1, 0x19, 0, 1, 1, 0x19][..], &uleb(1 << 60)].concat(), &[1]);
            info = unit(1, &[]);
        }
        Endless::Rows => {
            line = program(&[0; 2], &vec![1; size]);
            info = unit(1, &[]);
        }
        Endless::Attributes => info = unit(1, &vec![3; size]),
        Endless::Depth => info = unit(1, &vec![2; size]),
        Endless::Units => {
            abbrev.extend(vec![0x7f; 60 << 10]);
            for _ in 0..size / 32 {
                info.extend(unit(1, &[0]));
            }
        }
        Endless::Ranges => {
            info = unit(4, &[]);
            // The header of a table, and start_length entries.
            ranges = [&[0; 12][..], &[7, 1, 0, 0, 0, 0, 0, 0, 0, 1].repeat(size / 10)].concat();
        }
    }
    with_sections(
        image,
        &[
            (".debug_abbrev", abbrev),
            (".debug_info", info),
            (".debug_line", line),
            (".debug_rnglists", ranges),
        ],
    )
}

/// Abbreviations: 1 a unit with all code, 2 a function with others in it, 3 one with many
/// attributes of no bytes, 4 a unit with ranges.
fn abbreviations(endless: Endless) -> Vec<u8> {
    let mut table = vec![1, 0x11, 1, 0x11, 0x01, 0x12, 0x07, 0x10, 0x17, 0, 0];
    table.extend([2, 0x2e, 1, 0, 0]);
    table.extend([4, 0x11, 1, 0x55, 0x17, 0, 0]);
    if endless == Endless::Attributes {
        table.extend([3, 0x2e, 0]);
        table.extend([0x0c, 0x19].repeat(20_000));
        table.extend([0, 0]);
    }
    if endless != Endless::Units {
        table.push(0);
    }
    table
}

/// A unit of version 5 with this root, and entries in it.
fn unit(root: u8, entries: &[u8]) -> Vec<u8> {
    let mut content = vec![5, 0, 1, 8, 0, 0, 0, 0, root];
    match root {
        1 => {
            content.extend(1u64.to_le_bytes());
            content.extend((1u64 << 32).to_le_bytes());
            content.extend(0u32.to_le_bytes());
        }
        _ => content.extend(12u32.to_le_bytes()),
    }
    content.extend(entries);
    [&(content.len() as u32).to_le_bytes()[..], &content].concat()
}

/// A line number program of version 5 with these tables and instructions.
fn program(tables: &[u8], instructions: &[u8]) -> Vec<u8> {
    let mut header = vec![1, 1, 1, 0, 1, 10, 0, 1, 1, 1, 1, 0, 0, 0, 1];
    header.extend(tables);
    let mut content = vec![5, 0, 8, 0];
    content.extend((header.len() as u32).to_le_bytes());
    content.extend(header);
    content.extend(instructions);
    [&(content.len() as u32).to_le_bytes()[..], &content].concat()
}

fn uleb(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// An ELF file with these sections instead of those of debug information that it had.
fn with_sections(image: &[u8], sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("8 bytes")) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
    let header = |index: usize| &image[word(40) + index * 64..][..64];
    let field =
        |header: &[u8], at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
    let names_index = half(62);
    let names = header(names_index);
    let (at, size) = (field(names, 24) as usize, field(names, 32) as usize);
    let mut names = image[at..at + size].to_vec();
    let mut headers: Vec<Vec<u8>> = (0..half(60)).map(|index| header(index).to_vec()).collect();
    let mut file = image.to_vec();
    for header in &mut headers {
        let name = u32::from_le_bytes(header[..4].try_into().expect("4 bytes")) as usize;
        if names[name..].starts_with(b".debug") {
            header[..4].fill(0);
        }
    }
    for (name, bytes) in sections {
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
        header[4] = 1;
        header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        names.extend(name.bytes().chain([0]));
        file.extend(bytes);
        headers.push(header);
    }
    headers[names_index][24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
    headers[names_index][32..40].copy_from_slice(&(names.len() as u64).to_le_bytes());
    file.extend(names);
    file.resize(file.len().next_multiple_of(8), 0);
    let table = file.len() as u64;
    file[40..48].copy_from_slice(&table.to_le_bytes());
    file[60..62].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    file.extend(headers.concat());
    file
}
