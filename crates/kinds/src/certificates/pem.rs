//! PEM, as far as its blocks are to be told apart. Source: RFC 7468, and Go `encoding/pem`, which passes over whatever is between blocks.

use base64::Engine as _;

/// One block.
pub struct Block {
    /// `CERTIFICATE`, …
    pub label: String,
    /// Whether there are headers before its contents.
    pub has_headers: bool,
    /// What is inside.
    pub contents: Vec<u8>,
}

/// The blocks of a text that are whole.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else { continue };
        let end = format!("-----END {label}-----");
        let (mut encoded, mut has_headers, mut is_whole) = (String::new(), false, false);
        for line in lines.by_ref() {
            if line == end {
                is_whole = true;
                break;
            }
            if line.contains(':') {
                has_headers = true;
            } else {
                encoded.push_str(line);
            }
        }
        if let Ok(contents) = base64::engine::general_purpose::STANDARD.decode(encoded)
            && is_whole
        {
            blocks.push(Block { label: label.to_owned(), has_headers, contents });
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_found_and_nothing_else() {
        let text = "words\n-----BEGIN A-----\nYWJj\nZGVm\n-----END A-----\n-----BEGIN B-----\nkey: value\n\nYQ==\n-----END B-----\n-----BEGIN C-----\nYQ==\n";
        let found: Vec<_> = blocks(text).into_iter().map(|block| (block.label, block.has_headers, block.contents)).collect();
        assert_eq!(found, [("A".to_owned(), false, b"abcdef".to_vec()), ("B".to_owned(), true, b"a".to_vec())]);
    }
}
