//! A small Rust lexer: enough to tell identifiers and string literals from comments.

/// What the checks look at; numbers, characters, lifetimes and comments are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// An identifier or keyword, without `r#`.
    Ident(&'a str),
    /// The inside of a string literal of any kind, escapes untouched.
    Text(&'a str),
    /// One character of punctuation.
    Punct(char),
}

/// A token and the line (from 1) on which it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind<'a>,
    pub(crate) line: usize,
}

/// Cuts Rust source into tokens. Never fails: what does not lex becomes punctuation or reaches to the end.
pub(crate) fn lex(source: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer { source, at: 0, line: 1, tokens: Vec::new() };
    lexer.run();
    lexer.tokens
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: usize,
    tokens: Vec<Token<'a>>,
}

impl<'a> Lexer<'a> {
    fn run(&mut self) {
        while let Some(byte) = self.peek(0) {
            match byte {
                b'/' if self.peek(1) == Some(b'/') => self.skip_while(|b| b != b'\n'),
                b'/' if self.peek(1) == Some(b'*') => self.block_comment(),
                b'"' => self.string(),
                b'\'' => self.quote(),
                b'0'..=b'9' => self.number(),
                _ if is_ident(byte) => self.ident(),
                _ if byte.is_ascii_whitespace() => self.step(),
                _ => {
                    self.push(Kind::Punct(char::from(byte)), self.line);
                    self.step();
                }
            }
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.source.as_bytes().get(self.at + ahead).copied()
    }

    fn step(&mut self) {
        if self.peek(0) == Some(b'\n') {
            self.line += 1;
        }
        self.at += 1;
    }

    fn skip_while(&mut self, keep: impl Fn(u8) -> bool) {
        while self.peek(0).is_some_and(&keep) {
            self.step();
        }
    }

    fn push(&mut self, kind: Kind<'a>, line: usize) {
        self.tokens.push(Token { kind, line });
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek(0) {
            match (byte, self.peek(1)) {
                (b'/', Some(b'*')) => depth += 1,
                (b'*', Some(b'/')) => depth -= 1,
                _ => {
                    self.step();
                    continue;
                }
            }
            self.at += 2;
            if depth == 0 {
                return;
            }
        }
    }

    /// At the opening `"`.
    fn string(&mut self) {
        let line = self.line;
        self.step();
        let start = self.at;
        while let Some(byte) = self.peek(0) {
            match byte {
                b'"' => break,
                b'\\' => self.step(),
                _ => {}
            }
            self.step();
        }
        let end = self.at.min(self.source.len());
        self.step();
        self.push(Kind::Text(self.source.get(start..end).unwrap_or_default()), line);
    }

    /// At the first `#` or the `"` of a raw string; false when it is none.
    fn raw_string(&mut self) -> bool {
        let line = self.line;
        let hashes = self.source.as_bytes()[self.at..].iter().take_while(|&&b| b == b'#').count();
        if self.peek(hashes) != Some(b'"') {
            return false;
        }
        let start = self.at + hashes + 1;
        let closing = format!("\"{}", "#".repeat(hashes));
        let length = self.source[start..].find(&closing).unwrap_or(self.source.len() - start);
        let text = &self.source[start..start + length];
        self.line += text.matches('\n').count();
        self.at = start + length + closing.len();
        self.push(Kind::Text(text), line);
        true
    }

    /// A character or a lifetime.
    fn quote(&mut self) {
        self.step();
        if self.peek(0) == Some(b'\\') {
            self.at += 2;
            self.skip_while(|b| b != b'\'');
            self.step();
            return;
        }
        let width = self.source[self.at..].chars().next().map_or(0, char::len_utf8);
        if self.peek(width) == Some(b'\'') {
            self.at += width + 1;
        } else {
            self.skip_while(is_ident);
        }
    }

    fn number(&mut self) {
        self.skip_while(is_ident);
        if self.peek(0) == Some(b'.') && self.peek(1).is_some_and(|b| b.is_ascii_digit()) {
            self.step();
            self.skip_while(is_ident);
        }
    }

    fn ident(&mut self) {
        let (start, line) = (self.at, self.line);
        self.skip_while(is_ident);
        let name = &self.source[start..self.at];
        match (name, self.peek(0)) {
            ("r" | "br" | "cr", Some(b'"' | b'#')) => {
                if self.raw_string() {
                    return;
                }
                // A raw identifier: the next turn reads its name.
                self.step();
            }
            ("b" | "c", Some(b'"')) => self.string(),
            ("b", Some(b'\'')) => self.quote(),
            _ => self.push(Kind::Ident(name), line),
        }
    }
}

fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idents(source: &str) -> Vec<&str> {
        lex(source).iter().filter_map(|t| if let Kind::Ident(name) = t.kind { Some(name) } else { None }).collect()
    }

    #[test]
    fn comments_and_literals_hold_no_identifiers() {
        let source =
            "a // b\n/* c /* d */ e */ \"f \\\" g\" 'h' '\\'' b'i' b\"j\" r#\"k \" l\"# 'm: 0xnn 1.5e3 0..o r#fn é";
        assert_eq!(idents(source), ["a", "o", "fn", "é"]);
    }

    #[test]
    fn lines_are_counted_through_everything() {
        let source = "\"a\nb\" /* \n */ r\"\n\"\n// x\nlast";
        let last = lex(source).pop();
        assert_eq!(last, Some(Token { kind: Kind::Ident("last"), line: 6 }));
    }

    #[test]
    fn unfinished_source_ends() {
        for source in ["\"", "\"\\", "r#\"", "/*", "'", "'\\", "b'", "r#", "'é"] {
            lex(source);
        }
    }
}
