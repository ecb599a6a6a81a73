//! From the document's tree to the configuration's types, past the first mistake.
//!
//! A serde reader stops at the first error. Here each error carries the node it arose at; that
//! node is set aside and the document is read again without it, until it reads whole or what
//! failed cannot be left out. So one run shows every mistake, each at its own place.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::codes::Code;
use super::diagnostic::{Diagnostic, Diagnostics, did_you_mean};
use super::source::Span;
use super::spanned;
use super::tree::{Key, Kind, Node, Scalar};

/// After so many mistakes the rest of the file is not worth reading.
const MAX_ERRORS: usize = 100;

/// Reads `root` as a `T`; mistakes go to `found`. `None` when what is left of it is no `T`.
pub fn decode<T: DeserializeOwned>(root: &Node, found: &mut Diagnostics) -> Option<T> {
    let mut aside = HashSet::new();
    for _ in 0..MAX_ERRORS {
        let error = match T::deserialize(NodeReader { node: root, aside: &aside }) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let place = error.place?;
        if !error.follows {
            found.push(error.diagnostic(place.span));
        }
        if place.id == root.id || !aside.insert(place.id) {
            return None;
        }
    }
    None
}

/// An error of a type's own check, for use in a `Deserialize`.
pub fn invalid<E: de::Error>(code: Code, message: impl fmt::Display, help: &str) -> E {
    E::custom(format_args!("{MARK}{}{MARK}{message}{MARK}{help}", code.as_str()))
}

/// Separates the parts of a message that [`invalid`] made; cannot occur in a YAML document.
const MARK: char = '\u{1}';

#[derive(Clone, Copy, Debug)]
struct Place {
    id: u32,
    span: Span,
}

/// Why a node cannot be read.
#[derive(Debug)]
pub struct DecodeError {
    code: Code,
    message: String,
    label: String,
    help: Option<String>,
    place: Option<Place>,
    /// Only follows from a mistake already reported.
    follows: bool,
}

impl DecodeError {
    fn new(code: Code, message: String, label: impl Into<String>) -> Self {
        Self { code, message, label: label.into(), help: None, place: None, follows: false }
    }

    fn at(mut self, id: u32, span: Span) -> Self {
        self.place.get_or_insert(Place { id, span });
        self
    }

    fn diagnostic(self, span: Span) -> Diagnostic {
        Diagnostic::at(self.code, self.message, span, self.label).maybe_help(self.help)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let text = message.to_string();
        let mut parts = text.split(MARK).skip(1);
        match (parts.next().and_then(Code::parse), parts.next(), parts.next()) {
            (Some(code), Some(message), Some(help)) => {
                let help = (!help.is_empty()).then(|| help.to_owned());
                Self { help, ..Self::new(code, message.to_owned(), "here") }
            }
            _ => Self::new(Code::InvalidValue, text, "here"),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = plain(expected);
        let message = format!("expected {expected}, found {}", describe(&found));
        Self::new(Code::WrongType, message, format!("expected {expected}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = plain(expected);
        let message = format!("expected {expected}, found {}", describe(&found));
        Self::new(Code::InvalidValue, message, format!("expected {expected}"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let known = || expected.iter().copied();
        let help = did_you_mean(field, known()).unwrap_or_else(|| format!("known here: {}", listed(known())));
        Self {
            help: Some(help),
            ..Self::new(Code::UnknownKey, format!("unknown key `{field}`"), "no setting has this name")
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let known = || expected.iter().copied();
        let help = did_you_mean(variant, known()).unwrap_or_else(|| format!("one of: {}", listed(known())));
        Self {
            help: Some(help),
            ..Self::new(Code::InvalidValue, format!("unknown value `{variant}`"), "not one of the known values")
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Code::MissingKey, format!("`{field}` is missing"), format!("needs `{field}`"))
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Serde's words for a type, in the operator's words.
fn plain(expected: &dyn de::Expected) -> String {
    match expected.to_string().as_str() {
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        "a boolean" => "`true` or `false`".to_owned(),
        "a string" => "text".to_owned(),
        "u16" | "u32" | "u64" | "usize" | "i32" | "i64" => "a whole number".to_owned(),
        text if text.starts_with("a nonzero ") => "a whole number from 1".to_owned(),
        text if text.starts_with("struct ") => "a mapping".to_owned(),
        text => text.to_owned(),
    }
}

fn describe(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Map | Unexpected::StructVariant => "a mapping".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Str(text) => format!("`{text}`"),
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        other => other.to_string(),
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
struct NodeReader<'a> {
    node: &'a Node,
    aside: &'a HashSet<u32>,
}

impl<'a> NodeReader<'a> {
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.kind {
            Kind::Scalar(scalar) => visit_scalar(scalar, visitor),
            Kind::List(items) => visitor.visit_seq(Items { items: items.iter(), aside: self.aside }),
            Kind::Map(entries) => visitor
                .visit_map(Entries { entries: entries.iter(), value: None, aside: self.aside })
                .map_err(|error| self.maybe_follows(error)),
        }
    }

    /// What a node lacks because a part of it was set aside is no second mistake.
    fn maybe_follows(self, mut error: DecodeError) -> DecodeError {
        error.follows |= error.place.is_none() && lacks(self.node, self.aside);
        error
    }

    fn placed<T>(self, result: Result<T, DecodeError>) -> Result<T, DecodeError> {
        result.map_err(|error| error.at(self.node.id, self.node.span))
    }
}

/// Whether something within a node was set aside.
fn lacks(node: &Node, aside: &HashSet<u32>) -> bool {
    let within = |node: &Node| aside.contains(&node.id) || lacks(node, aside);
    node.items().iter().any(within)
        || node.entries().iter().any(|(key, value)| aside.contains(&key.id) || within(value))
}

/// YAML 1.2's core schema: what an unquoted scalar is.
fn visit_scalar<'de, V: Visitor<'de>>(scalar: &Scalar, visitor: V) -> Result<V::Value, DecodeError> {
    let text = scalar.text.as_str();
    if !scalar.plain {
        return visitor.visit_str(text);
    }
    match text {
        "" | "~" | "null" => visitor.visit_unit(),
        "true" => visitor.visit_bool(true),
        "false" => visitor.visit_bool(false),
        _ => match (text.parse::<u64>(), text.parse::<i64>()) {
            (Ok(number), _) => visitor.visit_u64(number),
            (_, Ok(number)) => visitor.visit_i64(number),
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => match text.parse::<f64>() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => visitor.visit_str(text),
            },
            _ => visitor.visit_str(text),
        },
    }
}

impl<'de> de::Deserializer<'de> for NodeReader<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.placed(self.visit(visitor))
    }

    /// Text may be written without quotes even if it looks like a number.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let result = match &self.node.kind {
            Kind::Scalar(scalar) if !(scalar.plain && matches!(scalar.text.as_str(), "" | "~" | "null")) => {
                visitor.visit_str(&scalar.text)
            }
            _ => self.visit(visitor),
        };
        self.placed(result)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_string(visitor)
    }

    /// A key without a value is a mistake, not an absent key.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.placed(visitor.visit_some(self))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        self.placed(visitor.visit_newtype_struct(self))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let result = if name == spanned::NAME {
            visitor.visit_seq(spanned::Parts::new(self.node.span, self))
        } else {
            self.visit(visitor)
        };
        self.placed(result)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let result = match &self.node.kind {
            Kind::Scalar(scalar) => visitor.visit_enum(de::value::StrDeserializer::new(&scalar.text)),
            Kind::List(_) | Kind::Map(_) => self.visit(visitor),
        };
        self.placed(result)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    aside: &'a HashSet<u32>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        let aside = self.aside;
        let next = self.items.by_ref().find(|node| !aside.contains(&node.id));
        next.map(|node| seed.deserialize(NodeReader { node, aside })).transpose()
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a Node>,
    aside: &'a HashSet<u32>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, DecodeError> {
        let aside = self.aside;
        let next = self.entries.by_ref().find(|(key, value)| !aside.contains(&key.id) && !aside.contains(&value.id));
        self.value = next.map(|(_, value)| value);
        next.map(|(key, _)| seed.deserialize(KeyReader(key))).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        match self.value.take() {
            Some(node) => seed.deserialize(NodeReader { node, aside: self.aside }),
            None => Err(de::Error::custom("a value was read before its key")),
        }
    }
}

/// Reads the key of an entry.
#[derive(Clone, Copy)]
struct KeyReader<'a>(&'a Key);

impl<'de> de::Deserializer<'de> for KeyReader<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_str(&self.0.text).map_err(|error: DecodeError| error.at(self.0.id, self.0.span))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let result = visitor.visit_seq(spanned::Parts::new(self.0.span, self));
        result.map_err(|error: DecodeError| error.at(self.0.id, self.0.span))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
