//! A tree of values as a source of tokens, and as what is written.

use std::borrow::Cow;

use serde_json::{Map, Number, Result, Value};

use super::reader::{Token, Tokens};
use super::writer::Sink;

/// An array or object that is being read.
enum Level<'de> {
    Array(std::slice::Iter<'de, Value>),
    Object(serde_json::map::Iter<'de>),
}

/// An object and how far it is read.
pub(super) struct Tree<'de> {
    /// The object itself, until its opening is read.
    root: Option<&'de Map<String, Value>>,
    levels: Vec<Level<'de>>,
    /// The next value, where it is known.
    next: Option<&'de Value>,
}

impl<'de> Tree<'de> {
    /// Begins to read `root`.
    pub fn new(root: &'de Map<String, Value>) -> Self {
        Self { root: Some(root), levels: Vec::new(), next: None }
    }
}

impl<'de> Tokens<'de> for Tree<'de> {
    fn value(&mut self) -> Result<Token<'de>> {
        if let Some(root) = self.root.take() {
            self.levels.push(Level::Object(root.iter()));
            return Ok(Token::Object);
        }
        // Whoever reads asks for a value only where one was announced.
        let Some(value) = self.next.take() else { return Ok(Token::Null) };
        Ok(match value {
            Value::Null => Token::Null,
            Value::Bool(value) => Token::Bool(*value),
            Value::Number(number) => of_number(number),
            Value::String(text) => Token::Text(Cow::Borrowed(text)),
            Value::Array(items) => {
                self.levels.push(Level::Array(items.iter()));
                Token::Array
            }
            Value::Object(fields) => {
                self.levels.push(Level::Object(fields.iter()));
                Token::Object
            }
        })
    }

    fn null(&mut self) -> Result<bool> {
        let null = matches!(self.next, Some(Value::Null));
        if null {
            self.next = None;
        }
        Ok(null)
    }

    fn element(&mut self) -> Result<bool> {
        self.next = match self.levels.last_mut() {
            Some(Level::Array(items)) => items.next(),
            _ => None,
        };
        if self.next.is_none() {
            self.levels.pop();
        }
        Ok(self.next.is_some())
    }

    fn key(&mut self) -> Result<Option<Cow<'de, str>>> {
        let field = match self.levels.last_mut() {
            Some(Level::Object(fields)) => fields.next(),
            _ => None,
        };
        let Some((key, value)) = field else {
            self.levels.pop();
            return Ok(None);
        };
        self.next = Some(value);
        Ok(Some(Cow::Borrowed(key)))
    }
}

/// A number as a token.
pub(super) fn of_number<'de>(number: &Number) -> Token<'de> {
    match (number.as_u64(), number.as_i64(), number.as_f64()) {
        (Some(value), ..) => Token::Unsigned(value),
        (_, Some(value), _) => Token::Signed(value),
        (.., value) => Token::Float(value.unwrap_or(f64::NAN)),
    }
}

/// A tree that is written.
#[derive(Default)]
pub(super) struct Planted {
    /// What is begun and not over, the innermost last, each with its name in what it is part of.
    open: Vec<(Option<String>, Value)>,
    /// The name of the next value, within an object.
    key: Option<String>,
    whole: Value,
}

impl Planted {
    /// The tree.
    pub fn finish(self) -> Value {
        self.whole
    }

    fn put(&mut self, key: Option<String>, value: Value) {
        match (self.open.last_mut(), key) {
            (Some((_, Value::Object(fields))), Some(key)) => {
                fields.insert(key, value);
            }
            (Some((_, Value::Array(items))), _) => items.push(value),
            _ => self.whole = value,
        }
    }
}

impl Sink for Planted {
    fn scalar(&mut self, token: Token<'_>) -> Result<()> {
        let key = self.key.take();
        let value = match token {
            Token::Bool(value) => Value::Bool(value),
            Token::Unsigned(value) => value.into(),
            Token::Signed(value) => value.into(),
            Token::Float(value) => value.into(),
            Token::Text(text) => Value::String(text.into_owned()),
            Token::Null | Token::Array | Token::Object => Value::Null,
        };
        self.put(key, value);
        Ok(())
    }

    fn begin(&mut self, object: bool) {
        let empty = if object { Value::Object(Map::new()) } else { Value::Array(Vec::new()) };
        self.open.push((self.key.take(), empty));
    }

    fn key(&mut self, key: &str) -> Result<()> {
        self.key = Some(key.to_owned());
        Ok(())
    }

    fn end(&mut self, _: bool) {
        if let Some((key, value)) = self.open.pop() {
            self.put(key, value);
        }
    }
}
