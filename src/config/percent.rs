//! Shares, written as `20%`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::codes::Code;
use super::decode::invalid;

/// A share in percent with at most four decimals, such as `20%`; some settings go beyond `100%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u32);

/// Parts of one percent that are kept.
const PARTS: f64 = 10_000.0;
const MOST: f64 = 1_000.0;

impl Percent {
    /// So many whole percent.
    #[must_use]
    pub const fn whole(percent: u32) -> Self {
        Self(percent * 10_000)
    }

    /// As a fraction: `20%` is 0.2.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / PARTS / 100.0
    }

    /// Whether it is at most `100%`.
    #[must_use]
    pub fn is_share(self) -> bool {
        self <= Self::whole(100)
    }

    /// Reads `20%`; the error says what is wrong.
    fn parse(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix('%').ok_or_else(|| format!("`{text}` has no `%`"))?;
        let number: f64 = number.trim_end().parse().map_err(|_| format!("`{text}` is not a percentage"))?;
        if !(0.0..=MOST).contains(&number) {
            return Err(format!("`{text}` is out of range"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range by the test above")]
        Ok(Self((number * PARTS).round() as u32))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", f64::from(self.0) / PARTS)
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PercentVisitor;

        impl Visitor<'_> for PercentVisitor {
            type Value = Percent;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a percentage such as `20%`")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Percent, E> {
                Err(invalid(Code::Unit, "a share needs its unit", &format!("write `{number}%`")))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Percent, E> {
                let help = format!("write `{}%` for that fraction of all", number * 100.0);
                Err(invalid(Code::Unit, "a share needs its unit", &help))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Percent, E> {
                Percent::parse(text)
                    .map_err(|problem| invalid(Code::InvalidValue, problem, "a share is written as `20%` or `0.5%`"))
            }
        }

        deserializer.deserialize_any(PercentVisitor)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A share in percent, such as 20% or 0.5%.",
            "pattern": r"^[0-9]+(\.[0-9]+)?\s*%$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_and_written() {
        for (text, fraction, written) in
            [("20%", 0.2, "20%"), ("0.5 %", 0.005, "0.5%"), ("100%", 1.0, "100%"), ("0%", 0.0, "0%")]
        {
            let percent = Percent::parse(text).unwrap();
            assert!((percent.fraction() - fraction).abs() < 1e-9);
            assert_eq!(percent.to_string(), written);
        }
        for text in ["20", "x%", "-1%", "1001%", "%", "NaN%"] {
            assert!(Percent::parse(text).is_err(), "{text}");
        }
    }
}
