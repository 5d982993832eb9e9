//! The fenced blocks and the tables of README.md.

use std::fs;
use std::path::Path;

/// One fenced block.
#[derive(Debug)]
pub struct Block {
    /// Where it begins.
    pub line: usize,
    pub language: String,
    /// What the invisible line above says, or nothing.
    pub tried: String,
    pub text: String,
}

pub fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md is there")
}

pub fn blocks() -> Vec<Block> {
    let text = readme();
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    let mut tried = String::new();
    for (at, line) in text.lines().enumerate() {
        if inside && line == "```" {
            inside = false;
        } else if let (true, Some(block)) = (inside, found.last_mut()) {
            block.text.push_str(line);
            block.text.push('\n');
        } else if let Some(language) = line.strip_prefix("```") {
            let (language, tried) = (language.to_owned(), std::mem::take(&mut tried));
            found.push(Block { line: at + 1, language, tried, text: String::new() });
            inside = true;
        } else if let Some(rest) = line.strip_prefix("<!-- tried: ") {
            tried = rest.trim_end_matches(" -->").to_owned();
        }
    }
    assert!(!inside && found.len() > 20, "{} blocks", found.len());
    found
}

/// The blocks of one language; there must be some.
pub fn of_language(language: &str) -> Vec<Block> {
    let found: Vec<Block> = blocks().into_iter().filter(|block| block.language == language).collect();
    assert!(!found.is_empty(), "there is no block of {language}");
    found
}

/// The rows of the first table below a heading, without its head.
pub fn table(heading: &str) -> Vec<Vec<String>> {
    let text = readme();
    let below = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no heading {heading}")).1;
    let rows = below.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The first piece of code in a cell.
pub fn code(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}
