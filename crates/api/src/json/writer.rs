//! serde's way to JSON that goes out token by token: the counterpart of [`super::reader`], with one serializer for text and trees.

use std::borrow::Cow;

use serde::ser::{
    Error as _, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple, SerializeTupleStruct,
    SerializeTupleVariant, Serializer,
};
use serde_json::{Error, Result};

use super::reader::Token;

/// Where JSON goes. The calls follow the document's structure; a sink may rely on that.
pub(super) trait Sink {
    /// A value that holds no others.
    fn scalar(&mut self, token: Token<'_>) -> Result<()>;
    /// An object, or else an array, begins.
    fn begin(&mut self, object: bool);
    /// The name of the object's next value.
    fn key(&mut self, key: &str) -> Result<()>;
    /// What began last, an object or an array, is over.
    fn end(&mut self, object: bool);
}

/// Writes one value, or an object's next key.
pub(super) struct Writer<'s> {
    sink: &'s mut dyn Sink,
    is_key: bool,
}

impl<'s> Writer<'s> {
    /// Writes a value into `sink`.
    pub fn new(sink: &'s mut dyn Sink) -> Self {
        Self { sink, is_key: false }
    }

    fn scalar(self, token: Token<'_>) -> Result<()> {
        match token {
            Token::Text(text) if self.is_key => self.sink.key(&text),
            _ if self.is_key => Err(Error::custom("key must be a string")),
            token => self.sink.scalar(token),
        }
    }

    fn begin(self, object: bool) -> Result<Open<'s>> {
        if self.is_key {
            return Err(Error::custom("key must be a string"));
        }
        self.sink.begin(object);
        Ok(Open { sink: self.sink, object, wrapped: false })
    }

    /// Begins what is the only field, called `name`, of an object.
    fn begin_wrapped(self, name: &str, object: bool) -> Result<Open<'s>> {
        let outer = self.begin(true)?;
        outer.sink.key(name)?;
        outer.sink.begin(object);
        Ok(Open { sink: outer.sink, object, wrapped: true })
    }
}

/// An object or an array that is being written.
pub(super) struct Open<'s> {
    sink: &'s mut dyn Sink,
    object: bool,
    wrapped: bool,
}

impl Open<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<()> {
        self.sink.key(key)?;
        value.serialize(Writer::new(self.sink))
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        value.serialize(Writer::new(self.sink))
    }

    fn close(self) {
        self.sink.end(self.object);
        if self.wrapped {
            self.sink.end(true);
        }
    }
}

macro_rules! numbers {
    ($($method:ident $kind:ty => $token:ident $wide:ty;)*) => {$(
        fn $method(self, value: $kind) -> Result<()> {
            self.scalar(Token::$token(<$wide>::from(value)))
        }
    )*};
}

impl<'s> Serializer for Writer<'s> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Open<'s>;
    type SerializeTuple = Open<'s>;
    type SerializeTupleStruct = Open<'s>;
    type SerializeTupleVariant = Open<'s>;
    type SerializeMap = Open<'s>;
    type SerializeStruct = Open<'s>;
    type SerializeStructVariant = Open<'s>;

    numbers! {
        serialize_u8 u8 => Unsigned u64;
        serialize_u16 u16 => Unsigned u64;
        serialize_u32 u32 => Unsigned u64;
        serialize_u64 u64 => Unsigned u64;
        serialize_i8 i8 => Signed i64;
        serialize_i16 i16 => Signed i64;
        serialize_i32 i32 => Signed i64;
        serialize_i64 i64 => Signed i64;
        serialize_f32 f32 => Float f64;
        serialize_f64 f64 => Float f64;
        serialize_bool bool => Bool bool;
    }

    fn serialize_char(self, value: char) -> Result<()> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }
    fn serialize_str(self, value: &str) -> Result<()> {
        self.scalar(Token::Text(Cow::Borrowed(value)))
    }
    fn serialize_bytes(self, value: &[u8]) -> Result<()> {
        value.serialize(self)
    }
    fn serialize_none(self) -> Result<()> {
        self.serialize_unit()
    }
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        value.serialize(self)
    }
    fn serialize_unit(self) -> Result<()> {
        self.scalar(Token::Null)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<()> {
        self.serialize_unit()
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<()> {
        self.serialize_str(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<()> {
        value.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, _: u32, variant: &'static str, value: &T) -> Result<()> {
        let mut object = self.begin(true)?;
        object.field(variant, value)?;
        object.close();
        Ok(())
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<Open<'s>> {
        self.begin(false)
    }
    fn serialize_tuple(self, _: usize) -> Result<Open<'s>> {
        self.begin(false)
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Open<'s>> {
        self.begin(false)
    }
    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Open<'s>> {
        self.begin_wrapped(variant, false)
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Open<'s>> {
        self.begin(true)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Open<'s>> {
        self.begin(true)
    }
    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Open<'s>> {
        self.begin_wrapped(variant, true)
    }
    fn collect_str<T: std::fmt::Display + ?Sized>(self, value: &T) -> Result<()> {
        self.serialize_str(&value.to_string())
    }
}

impl SerializeMap for Open<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<()> {
        key.serialize(Writer { sink: self.sink, is_key: true })
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
        self.element(value)
    }
    fn end(self) -> Result<()> {
        self.close();
        Ok(())
    }
}

macro_rules! elements {
    ($($kind:ident $method:ident)*) => {$(
        impl $kind for Open<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<()> {
                self.element(value)
            }
            fn end(self) -> Result<()> {
                self.close();
                Ok(())
            }
        }
    )*};
}

macro_rules! fields {
    ($($kind:ident)*) => {$(
        impl $kind for Open<'_> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<()> {
                self.field(key, value)
            }
            fn end(self) -> Result<()> {
                self.close();
                Ok(())
            }
        }
    )*};
}

elements!(SerializeSeq serialize_element SerializeTuple serialize_element SerializeTupleStruct serialize_field SerializeTupleVariant serialize_field);
fields!(SerializeStruct SerializeStructVariant);
