//! Prose of the manual, written as a small part of Markdown, as the source of a man page.
//!
//! `# Section`, `## Subsection`, paragraphs, `- ` lists, `term` with `: meaning` below it, fenced examples, and
//! within a line `**bold**`, `*italic*` and `` `code` ``. Pure.

/// Renders whole sections.
pub(super) fn render(prose: &str) -> String {
    let mut page = Page::default();
    let mut lines = prose.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let code = lines.by_ref().take_while(|line| !line.starts_with("```"));
            page.example(code);
        } else if let Some(title) = line.strip_prefix("## ") {
            page.begin(&format!(".SS {}", quoted(title)));
        } else if let Some(title) = line.strip_prefix("# ") {
            page.begin(&format!(".SH {}", quoted(&title.to_uppercase())));
        } else if let Some(item) = line.strip_prefix("- ") {
            page.item(".IP \\(bu 2", item);
        } else if let Some(meaning) = line.strip_prefix(": ") {
            page.text(meaning);
        } else if lines.peek().is_some_and(|next| next.starts_with(": ")) {
            page.item(".TP", line);
        } else if line.trim().is_empty() {
            page.is_open = false;
        } else {
            page.paragraph(line.trim_start());
        }
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
    /// The last line is one of a paragraph or of an item, and the next goes on with it.
    is_open: bool,
    /// A heading was the last: no space is wanted.
    is_fresh: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn begin(&mut self, heading: &str) {
        self.line(heading);
        (self.is_open, self.is_fresh) = (false, true);
    }

    fn text(&mut self, text: &str) {
        self.line(&inline(text));
        (self.is_open, self.is_fresh) = (true, false);
    }

    fn paragraph(&mut self, text: &str) {
        if !self.is_open && !self.is_fresh {
            self.line(".PP");
        }
        self.text(text);
    }

    fn item(&mut self, request: &str, text: &str) {
        self.line(request);
        self.text(text);
    }

    fn example<'a>(&mut self, code: impl Iterator<Item = &'a str>) {
        if !self.is_fresh {
            self.line(".PP");
        }
        self.line(".RS 4\n.nf");
        for line in code {
            self.line(&plain(line));
        }
        self.line(".fi\n.RE");
        (self.is_open, self.is_fresh) = (false, false);
    }
}

/// One argument of a request.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", escape(text).replace('"', "\\(dq"))
}

/// A line with its fonts.
pub(super) fn inline(text: &str) -> String {
    let mut line = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['*', '`']) {
        line.push_str(&escape(&rest[..at]));
        let marked = &rest[at..];
        let span = ["**", "*", "`"].iter().find_map(|mark| {
            let inner = marked.strip_prefix(mark)?;
            let end = inner.find(mark)?;
            Some((*mark, &inner[..end], &inner[end + mark.len()..]))
        });
        match span {
            Some((mark, inner, after)) if !inner.is_empty() => {
                let font = if mark == "*" { 'I' } else { 'B' };
                line.push_str(&format!("\\f{font}{}\\fR", escape(inner)));
                rest = after;
            }
            _ => {
                line.push_str(&escape(&marked[..1]));
                rest = &marked[1..];
            }
        }
    }
    line.push_str(&escape(rest));
    guarded(line)
}

fn plain(line: &str) -> String {
    guarded(escape(line))
}

/// A line that begins like a request is none.
fn guarded(line: String) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '`' => escaped.push_str("\\(ga"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_once() {
        let prose = "# Words\nOne *two* **three**\nand `-n`.\n\nA new one.\n- first\n- second\n\n`-x`\n: does *it*\n\
                     \n```sh\n.dflock 'a\\b'\n```\n## More\nEnd: 2 * 3.\n";
        let roff = ".SH \"WORDS\"\nOne \\fItwo\\fR \\fBthree\\fR\nand \\fB\\-n\\fR.\n.PP\nA new one.\n.IP \\(bu 2\n\
                    first\n.IP \\(bu 2\nsecond\n.TP\n\\fB\\-x\\fR\ndoes \\fIit\\fR\n.PP\n.RS 4\n.nf\n\
                    \\&.dflock \\(aqa\\eb\\(aq\n.fi\n.RE\n.SS \"More\"\nEnd: 2 * 3.\n";
        assert_eq!(render(prose), roff);
    }
}
