//! The string form of label selectors: `app=web,tier in (a,b),!old`.

use std::collections::BTreeSet;

use super::{Operator, Requirement, check_key, requirement};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "(" => Token::Open,
        _ => return None,
    })
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// Longest selector accepted: four pages of labels, well above any use, so that a request cannot
/// make the server build an endless list of requirements.
const SELECTOR_MAX_BYTES: usize = 16 * 1024;

fn scan(text: &str) -> Result<Vec<(Token, String)>, String> {
    if text.len() > SELECTOR_MAX_BYTES {
        return Err(format!(
            "selector is {} bytes long, more than {SELECTOR_MAX_BYTES}",
            text.len()
        ));
    }
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_blank);
    while let Some(first) = rest.chars().next() {
        let length;
        if is_symbol(first) {
            // The longest run of symbols that is a token.
            let two = rest.get(..2).and_then(symbol);
            let token = two.or_else(|| symbol(&rest[..1])).unwrap_or(Token::Error);
            length = if two.is_some() { 2 } else { 1 };
            tokens.push((token, rest[..length].to_string()));
        } else {
            length = rest
                .find(|c| is_symbol(c) || is_blank(c))
                .unwrap_or(rest.len());
            let word = &rest[..length];
            let token = match word {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Identifier,
            };
            tokens.push((token, word.to_string()));
        }
        rest = rest[length..].trim_start_matches(is_blank);
    }
    tokens.push((Token::End, String::new()));
    Ok(tokens)
}

/// Reads a selector's requirements, in the order in which they are written.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, String> {
    let mut parser = Parser {
        tokens: scan(text)?,
        position: 0,
    };
    parser.parse()
}

struct Parser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

impl Parser {
    /// The next token, where `in` and `notin` count as identifiers.
    fn peek(&self) -> (Token, &str) {
        let (token, text) = self.peek_operator();
        match token {
            Token::In | Token::NotIn => (Token::Identifier, text),
            _ => (token, text),
        }
    }

    fn peek_operator(&self) -> (Token, &str) {
        // The list ends with End, beyond which the position never moves.
        let index = self.position.min(self.tokens.len() - 1);
        let (token, text) = &self.tokens[index];
        (*token, text)
    }

    fn take(&mut self) -> (Token, String) {
        let (token, text) = self.peek();
        let taken = (token, text.to_string());
        self.position += 1;
        taken
    }

    fn parse(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            let (token, text) = self.peek();
            match token {
                Token::Identifier | Token::Not => {}
                Token::End => return Ok(requirements),
                _ => {
                    return Err(format!(
                        "found '{text}', expected: !, identifier, or 'end of string'"
                    ));
                }
            }
            let requirement = self
                .requirement()
                .map_err(|e| format!("unable to parse requirement: {e}"))?;
            requirements.push(requirement);
            let (token, text) = self.take();
            match token {
                Token::End => return Ok(requirements),
                Token::Comma => {
                    let (token, text) = self.peek();
                    if token != Token::Identifier && token != Token::Not {
                        return Err(format!("found '{text}', expected: identifier after ','"));
                    }
                }
                _ => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.take();
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.take();
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        check_key(&key)?;
        if negated {
            return requirement(key, Operator::DoesNotExist, BTreeSet::new());
        }
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return requirement(key, Operator::Exists, BTreeSet::new());
        }
        let (token, text) = self.peek_operator();
        let operator = match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => {
                return Err(format!(
                    "found '{text}', expected: in, notin, =, ==, !=, gt, lt"
                ));
            }
        };
        self.position += 1;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => BTreeSet::from([self.exact_value()?]),
        };
        requirement(key, operator, values)
    }

    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (token, text) = self.take();
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let (token, text) = self.peek();
        match token {
            Token::Identifier | Token::Comma => {}
            Token::Close => {
                self.position += 1;
                return Ok(BTreeSet::from([String::new()]));
            }
            _ => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
        let values = self.identifiers()?;
        let (token, text) = self.take();
        if token != Token::Close {
            return Err(format!("found '{text}', expected: ')'"));
        }
        Ok(values)
    }

    /// A list of possibly empty identifiers, up to but not including the closing parenthesis.
    fn identifiers(&mut self) -> Result<BTreeSet<String>, String> {
        let mut values = BTreeSet::new();
        loop {
            let (token, text) = self.take();
            match token {
                Token::Identifier => {
                    values.insert(text);
                    match self.peek() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                Token::Comma => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.peek().0 {
                        Token::Close => {
                            values.insert(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.position += 1;
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                _ => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        if matches!(self.peek().0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.take() {
            (Token::Identifier, text) => Ok(text),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }
}
