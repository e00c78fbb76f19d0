//! serde's view of JSON that comes token by token.
//!
//! Reading a type is generic over where it is read from, so a Pod read from text and from a tree is all of its code twice. Here the
//! source is a trait object and [`Reader`] the only deserializer: each type's code exists once, and so does most of what is
//! between the type and the source.

use std::borrow::Cow;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor};
use serde_json::{Error, Result};

/// A value, or where one that holds others begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token<'de> {
    Null,
    Bool(bool),
    /// A whole number that is not negative.
    Unsigned(u64),
    /// A whole number below zero.
    Signed(i64),
    Float(f64),
    Text(Cow<'de, str>),
    /// Its elements follow, each announced by [`Tokens::element`].
    Array,
    /// Its fields follow, each announced by [`Tokens::key`].
    Object,
}

impl Token<'_> {
    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Self::Null => Unexpected::Unit,
            Self::Bool(value) => Unexpected::Bool(*value),
            Self::Unsigned(value) => Unexpected::Unsigned(*value),
            Self::Signed(value) => Unexpected::Signed(*value),
            Self::Float(value) => Unexpected::Float(*value),
            Self::Text(value) => Unexpected::Str(value),
            Self::Array => Unexpected::Seq,
            Self::Object => Unexpected::Map,
        }
    }
}

/// A source of JSON. The calls follow the document's structure; a source may rely on that.
pub(super) trait Tokens<'de> {
    /// The next value. After an [`Token::Array`] or [`Token::Object`] its content is next.
    fn value(&mut self) -> Result<Token<'de>>;
    /// Passes over a null, if the next value is one.
    fn null(&mut self) -> Result<bool>;
    /// Whether the array has another element, which is then the next value; if not, the array is over.
    fn element(&mut self) -> Result<bool>;
    /// How many elements the array has that was just begun, where that is worth knowing before they are read.
    fn elements(&self) -> Option<usize> {
        None
    }
    /// The object's next key, whose value is then next; if there is none, the object is over.
    fn key(&mut self) -> Result<Option<Cow<'de, str>>>;
}

/// Passes over the next value with all that is in it.
pub(super) fn skip(tokens: &mut dyn Tokens<'_>) -> Result<()> {
    match tokens.value()? {
        Token::Array => {
            while tokens.element()? {
                skip(tokens)?;
            }
        }
        Token::Object => {
            while tokens.key()?.is_some() {
                skip(tokens)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Reads one value.
pub(super) struct Reader<'t, 'de>(pub &'t mut dyn Tokens<'de>);

#[cold]
fn wrong_type<'de, V: Visitor<'de>>(token: &Token<'_>, visitor: &V) -> Error {
    Error::invalid_type(token.unexpected(), visitor)
}

impl<'de> Reader<'_, 'de> {
    fn number<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.value()? {
            Token::Unsigned(value) => visitor.visit_u64(value),
            Token::Signed(value) => visitor.visit_i64(value),
            Token::Float(value) => visitor.visit_f64(value),
            token => Err(wrong_type(&token, &visitor)),
        }
    }

    fn text<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.value()? {
            Token::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Token::Text(Cow::Owned(text)) => visitor.visit_string(text),
            token => Err(wrong_type(&token, &visitor)),
        }
    }

    fn array<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.value()? {
            Token::Array => Inside::visit_array(self.0, visitor),
            token => Err(wrong_type(&token, &visitor)),
        }
    }

    fn object<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.value()? {
            Token::Object => Inside::visit_object(self.0, visitor),
            token => Err(wrong_type(&token, &visitor)),
        }
    }
}

macro_rules! read_as {
    ($way:ident: $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            self.$way(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.value()? {
            Token::Null => visitor.visit_unit(),
            Token::Bool(value) => visitor.visit_bool(value),
            Token::Unsigned(value) => visitor.visit_u64(value),
            Token::Signed(value) => visitor.visit_i64(value),
            Token::Float(value) => visitor.visit_f64(value),
            Token::Text(Cow::Borrowed(text)) => visitor.visit_borrowed_str(text),
            Token::Text(Cow::Owned(text)) => visitor.visit_string(text),
            Token::Array => Inside::visit_array(self.0, visitor),
            Token::Object => Inside::visit_object(self.0, visitor),
        }
    }

    read_as!(number: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_f32 deserialize_f64);
    read_as!(text: deserialize_char deserialize_str deserialize_string deserialize_identifier);
    read_as!(array: deserialize_seq);
    read_as!(object: deserialize_map);
    read_as!(deserialize_any: deserialize_bytes deserialize_byte_buf);

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.value()? {
            Token::Bool(value) => visitor.visit_bool(value),
            token => Err(wrong_type(&token, &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.0.null()? { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0.value()? {
            Token::Null => visitor.visit_unit(),
            token => Err(wrong_type(&token, &visitor)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.array(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value> {
        self.array(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        self.object(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value> {
        visitor.visit_enum(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        skip(self.0)?;
        visitor.visit_unit()
    }
}

/// Enumerations are texts in Kubernetes' types; there are none with content.
impl<'de> EnumAccess<'de> for Reader<'_, 'de> {
    type Error = Error;
    type Variant = Plain;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Plain)> {
        Ok((seed.deserialize(self)?, Plain))
    }
}

/// A variant without content.
pub(super) struct Plain;

impl<'de> VariantAccess<'de> for Plain {
    type Error = Error;

    fn unit_variant(self) -> Result<()> {
        Ok(())
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value> {
        Err(Error::custom("a variant with content"))
    }
    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value> {
        Err(Error::custom("a variant with content"))
    }
    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value> {
        Err(Error::custom("a variant with content"))
    }
}

/// The content of an array or an object.
struct Inside<'t, 'de> {
    tokens: &'t mut dyn Tokens<'de>,
    over: bool,
    /// How many elements there are, where it is known.
    elements: Option<usize>,
}

impl<'t, 'de> Inside<'t, 'de> {
    fn visit_array<V: Visitor<'de>>(tokens: &'t mut dyn Tokens<'de>, visitor: V) -> Result<V::Value> {
        let elements = tokens.elements();
        let mut inside = Inside { tokens, over: false, elements };
        let value = visitor.visit_seq(&mut inside)?;
        inside.finish(|tokens| tokens.element())?;
        Ok(value)
    }

    fn visit_object<V: Visitor<'de>>(tokens: &'t mut dyn Tokens<'de>, visitor: V) -> Result<V::Value> {
        let mut inside = Inside { tokens, over: false, elements: None };
        let value = visitor.visit_map(&mut inside)?;
        inside.finish(|tokens| Ok(tokens.key()?.is_some()))?;
        Ok(value)
    }

    /// Where a visitor had enough before the end, what follows must be the end.
    fn finish(self, more: fn(&mut dyn Tokens<'de>) -> Result<bool>) -> Result<()> {
        if !self.over && more(self.tokens)? {
            return Err(Error::custom("more elements than there is place for"));
        }
        Ok(())
    }
}

impl<'de> SeqAccess<'de> for &mut Inside<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if self.over || !self.tokens.element()? {
            self.over = true;
            return Ok(None);
        }
        seed.deserialize(Reader(self.tokens)).map(Some)
    }

    /// Lists take as much memory as this says and grow in large steps beyond it.
    fn size_hint(&self) -> Option<usize> {
        self.elements
    }
}

impl<'de> MapAccess<'de> for &mut Inside<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        if self.over {
            return Ok(None);
        }
        match self.tokens.key()? {
            Some(key) => seed.deserialize(Key(key)).map(Some),
            None => {
                self.over = true;
                Ok(None)
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(Reader(self.tokens))
    }
}

/// A field's name.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.0 {
            Cow::Borrowed(text) => visitor.visit_borrowed_str(text),
            Cow::Owned(text) => visitor.visit_string(text),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}
