//! Label selectors: parse the query form, read the object form, match, print. Pure.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::names;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted.
    pub values: Vec<String>,
}

/// All of the requirements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

/// A selector that cannot be read; upstream's wording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl Selector {
    /// `a=b,c!=d,e in (f,g),h notin (i),j,!k`
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        let mut requirements = Vec::new();
        while parser.peek() != &Token::End {
            requirements.push(parser.requirement()?);
            match parser.next() {
                Token::End => break,
                Token::Comma => match parser.peek() {
                    Token::Word(_) | Token::Not => {}
                    other => return Err(unexpected(other, "identifier after ','")),
                },
                other => return Err(unexpected(&other, "',' or 'end of string'")),
            }
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// Exactly these labels.
    pub fn from_labels(labels: &BTreeMap<String, String>) -> Self {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        };
        Self { requirements: labels.iter().map(equals).collect() }
    }

    /// None when an operator is none (validation refuses those).
    pub fn from_object(selector: &LabelSelector) -> Option<Self> {
        let mut all = Self::from_labels(selector.match_labels.as_ref().unwrap_or(&BTreeMap::new()));
        for e in selector.match_expressions.iter().flatten() {
            let operator = match e.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return None,
            };
            let mut values = e.values.clone().unwrap_or_default();
            values.sort();
            all.requirements.push(Requirement { key: e.key.clone(), operator, values });
        }
        all.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Some(all)
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }
}

impl Requirement {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = |v: &String| self.values.contains(v);
        let compared = |wanted: std::cmp::Ordering| {
            let number = |text: &String| text.parse::<i64>().ok();
            let (Some(have), Some(limit)) =
                (value.and_then(number), self.values.first().and_then(number))
            else {
                return false;
            };
            have.cmp(&limit) == wanted
        };
        match self.operator {
            Operator::In | Operator::Equals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compared(std::cmp::Ordering::Greater),
            Operator::LessThan => compared(std::cmp::Ordering::Less),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, r) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&r.key, r.values.join(","));
            match r.operator {
                Operator::In if r.values.len() == 1 => write!(f, "{key}={values}"),
                Operator::In => write!(f, "{key} in ({values})"),
                Operator::NotIn => write!(f, "{key} notin ({values})"),
                Operator::Equals => write!(f, "{key}={values}"),
                Operator::NotEquals => write!(f, "{key}!={values}"),
                Operator::Exists => write!(f, "{key}"),
                Operator::DoesNotExist => write!(f, "!{key}"),
                Operator::GreaterThan => write!(f, "{key}>{values}"),
                Operator::LessThan => write!(f, "{key}<{values}"),
            }?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Comma,
    Open,
    Close,
    Not,
    Equals,
    NotEquals,
    Greater,
    Less,
    End,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '>' => (Token::Greater, 1),
            '<' => (Token::Less, 1),
            '!' if rest.starts_with("!=") => (Token::NotEquals, 2),
            '!' => (Token::Not, 1),
            '=' if rest.starts_with("==") => (Token::Equals, 2),
            '=' => (Token::Equals, 1),
            _ => {
                let special = |c: char| c.is_whitespace() || ",()><!=".contains(c);
                let end = rest.find(special).unwrap_or(rest.len());
                (Token::Word(rest[..end].into()), end)
            }
        };
        found.push(token);
        rest = rest[length..].trim_start();
    }
    found.push(Token::End);
    found
}

fn unexpected(token: &Token, wanted: &str) -> ParseError {
    let text = match token {
        Token::Word(word) => word.as_str(),
        Token::Comma => ",",
        Token::Open => "(",
        Token::Close => ")",
        Token::Not => "!",
        Token::Equals => "=",
        Token::NotEquals => "!=",
        Token::Greater => ">",
        Token::Less => "<",
        Token::End => "",
    };
    ParseError(format!("unable to parse requirement: found '{text}', expected: {wanted}"))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn peek(&self) -> &Token {
        self.tokens.get(self.at).unwrap_or(&Token::End)
    }

    fn next(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        let negated = self.peek() == &Token::Not;
        if negated {
            self.at += 1;
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(unexpected(&other, "identifier")),
        };
        if let Some(why) = names::qualified_name(&key).first() {
            return Err(ParseError(format!(
                "unable to parse requirement: <nil>: Invalid value: {key:?}: {why}"
            )));
        }
        let (operator, values) = match self.peek().clone() {
            Token::End | Token::Comma if negated => (Operator::DoesNotExist, Vec::new()),
            Token::End | Token::Comma => (Operator::Exists, Vec::new()),
            other if negated => return Err(unexpected(&other, "',' or 'end of string'")),
            Token::Word(word) if word == "in" || word == "notin" => {
                self.at += 1;
                let operator = if word == "in" { Operator::In } else { Operator::NotIn };
                (operator, self.set()?)
            }
            Token::Equals => self.value(Operator::Equals)?,
            Token::NotEquals => self.value(Operator::NotEquals)?,
            Token::Greater => self.value(Operator::GreaterThan)?,
            Token::Less => self.value(Operator::LessThan)?,
            other => {
                return Err(unexpected(&other, "in, notin, =, ==, !=, gt, lt"));
            }
        };
        check_values(&key, operator, &values)?;
        Ok(Requirement { key, operator, values })
    }

    fn value(&mut self, operator: Operator) -> Result<(Operator, Vec<String>), ParseError> {
        self.at += 1;
        let value = match self.peek() {
            Token::Word(word) => word.clone(),
            Token::Comma | Token::End => return Ok((operator, vec![String::new()])),
            other => return Err(unexpected(other, "identifier")),
        };
        self.at += 1;
        Ok((operator, vec![value]))
    }

    fn set(&mut self) -> Result<Vec<String>, ParseError> {
        match self.next() {
            Token::Open => {}
            other => return Err(unexpected(&other, "'('")),
        }
        let mut values = Vec::new();
        loop {
            match self.next() {
                Token::Word(word) => {
                    values.push(word);
                    match self.next() {
                        Token::Comma if self.peek() == &Token::Close => values.push(String::new()),
                        Token::Comma => {}
                        Token::Close => break,
                        other => return Err(unexpected(&other, "',' or ')'")),
                    }
                }
                Token::Comma => values.push(String::new()),
                Token::Close => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    break;
                }
                other => return Err(unexpected(&other, "',', ')' or identifier")),
            }
        }
        values.sort();
        values.dedup();
        Ok(values)
    }
}

fn check_values(key: &str, operator: Operator, values: &[String]) -> Result<(), ParseError> {
    for value in values {
        let why = match operator {
            Operator::GreaterThan | Operator::LessThan if value.parse::<i64>().is_err() => {
                Some("for 'Gt', 'Lt' operators, the value must be an integer".to_owned())
            }
            Operator::GreaterThan | Operator::LessThan => None,
            _ => names::label_value(value).into_iter().next(),
        };
        if let Some(why) = why {
            return Err(ParseError(format!(
                "unable to parse requirement: values[0][{key}]: Invalid value: {value:?}: {why}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        let pair = |p: &str| p.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        text.split(',').filter_map(pair).collect()
    }

    #[test]
    fn parses_prints_and_matches() {
        for (text, printed, has, lacks) in [
            ("", "", "a=b", ""),
            ("a=b", "a=b", "a=b,c=d", "a=c"),
            ("a==b", "a=b", "a=b", "c=b"),
            ("a!=b", "a!=b", "c=d", "a=b"),
            ("a in (b, c)", "a in (b,c)", "a=c", "a=d"),
            ("a in (b)", "a=b", "a=b", "a=d"),
            ("a notin (b,c)", "a notin (b,c)", "a=d", "a=b"),
            ("a", "a", "a=", "b=a"),
            ("!a", "!a", "b=", "a="),
            ("x.io/n>5", "x.io/n>5", "x.io/n=6", "x.io/n=5"),
            ("b=1, a=2", "a=2,b=1", "a=2,b=1", "a=2"),
            ("a=", "a=", "a=", "a=b"),
            ("in=notin", "in=notin", "in=notin", "in=in"),
        ] {
            let selector = Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.to_string(), printed, "{text}");
            assert!(selector.matches(&labels(has)), "{text} should match {has}");
            assert!(text.is_empty() || !selector.matches(&labels(lacks)), "{text} has {lacks}");
        }
    }

    #[test]
    fn refuses_what_is_none() {
        for text in [
            "a=b,",
            "=b",
            "a in",
            "a in b",
            "a in (b",
            "!a=b",
            "a b",
            "a,,b",
            "a=b=c",
            "a/b/c=d",
            "a=-",
            "a>b",
            "(",
            "a in (b c)",
        ] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,60}") {
            let _ = Selector::parse(&text);
        }
    }
}
