//! The secret that proves a grant.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of the longest token of any backend.
const MAX_TOKEN: usize = 200;

/// Visible ASCII; shown only where it is the answer.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Token(String);

impl Token {
    /// The error says what is wrong with it, without showing it.
    pub fn new(text: &str) -> Result<Token, String> {
        if text.is_empty() {
            return Err("a token must not be empty".to_owned());
        }
        if text.len() > MAX_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("this is not a token: it must be visible ASCII on one line".to_owned());
        }
        Ok(Token(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Token {
    type Error = String;

    fn try_from(text: String) -> Result<Token, String> {
        Token::new(&text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Token(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_would_break_a_line() {
        for text in ["", "a b", "a\nr", "é", &"x".repeat(201)] {
            assert!(Token::new(text).is_err(), "{text:?}");
            let json = serde_json::to_string(text).unwrap();
            assert!(serde_json::from_str::<Token>(&json).is_err(), "{json}");
        }
        assert_eq!(format!("{:?}", Token::new("0123").unwrap()), "Token(redacted)");
    }
}
