//! The values that options take: each is read whole, or refused with what it should have been.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use llama_cpp_bridge::shared::ranges::Limit;

fn wrong(option: &str, value: &str, takes: &str) -> lexopt::Error {
    format!("{option}: '{value}' is not {takes}").into()
}

pub fn path(input: &mut lexopt::Parser, option: &str) -> Result<OsString, lexopt::Error> {
    let value = input.value()?;
    if value.is_empty() {
        return Err(wrong(option, "", "a path or name"));
    }
    Ok(value)
}

/// Text, which is UTF-8 because replies must be.
pub fn text(input: &mut lexopt::Parser, option: &str) -> Result<String, lexopt::Error> {
    match path(input, option)?.into_string() {
        Ok(text) => Ok(text),
        Err(value) => Err(wrong(option, &value.to_string_lossy(), "valid UTF-8")),
    }
}

/// Words that are separated by commas.
pub fn list(input: &mut lexopt::Parser, option: &str) -> Result<Vec<String>, lexopt::Error> {
    let value = text(input, option)?;
    let words: Vec<String> = value.split(',').map(String::from).collect();
    if words.iter().any(String::is_empty) {
        return Err(wrong(option, &value, "a comma-separated list"));
    }
    Ok(words)
}

/// Some of these verbs, in upper case.
pub fn verbs(
    input: &mut lexopt::Parser,
    option: &str,
    known: &[&str],
) -> Result<Vec<String>, lexopt::Error> {
    let mut verbs = list(input, option)?;
    for verb in &mut verbs {
        verb.make_ascii_uppercase();
        if !known.contains(&verb.as_str()) {
            return Err(wrong(option, verb, &format!("one of {}", known.join(", "))));
        }
    }
    Ok(verbs)
}

pub fn number<T>(
    input: &mut lexopt::Parser,
    option: &str,
    range: RangeInclusive<T>,
) -> Result<T, lexopt::Error>
where
    T: FromStr + PartialOrd + Display,
{
    let value = input.value()?.to_string_lossy().into_owned();
    match value.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => {
            let takes = format!("a number from {} to {}", range.start(), range.end());
            Err(wrong(option, &value, &takes))
        }
    }
}

/// A number, or `auto`, which is `None`.
pub fn number_or_auto<T>(
    input: &mut lexopt::Parser,
    option: &str,
    range: RangeInclusive<T>,
) -> Result<Option<T>, lexopt::Error>
where
    T: FromStr + PartialOrd + Display,
{
    let value = input.value()?.to_string_lossy().into_owned();
    match value.parse() {
        _ if value == "auto" => Ok(None),
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => {
            let takes = format!("auto or a number from {} to {}", range.start(), range.end());
            Err(wrong(option, &value, &takes))
        }
    }
}

/// Whole seconds, up to a day.
pub fn seconds(input: &mut lexopt::Parser, option: &str) -> Result<Duration, lexopt::Error> {
    number(input, option, 1..=86_400).map(Duration::from_secs)
}

/// Whole seconds, up to a day; 0 is no limit.
pub fn seconds_or_off(
    input: &mut lexopt::Parser,
    option: &str,
) -> Result<Option<Duration>, lexopt::Error> {
    let seconds = number(input, option, 0..=86_400)?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
}

/// A number that an option of sampling takes.
pub fn limited(
    input: &mut lexopt::Parser,
    option: &str,
    limit: &Limit,
) -> Result<f64, lexopt::Error> {
    let value = input.value()?.to_string_lossy().into_owned();
    limit
        .parse(&value)
        .ok_or_else(|| wrong(option, &value, &limit.takes()))
}

pub fn choice<T: Copy>(
    input: &mut lexopt::Parser,
    option: &str,
    choices: &[(&str, T)],
) -> Result<T, lexopt::Error> {
    let value = input.value()?.to_string_lossy().into_owned();
    match choices.iter().find(|(name, _)| *name == value) {
        Some((_, choice)) => Ok(*choice),
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let takes = format!("one of {}", names.join(", "));
            Err(wrong(option, &value, &takes))
        }
    }
}

pub fn mode(input: &mut lexopt::Parser, option: &str) -> Result<u32, lexopt::Error> {
    let value = input.value()?.to_string_lossy().into_owned();
    match u32::from_str_radix(&value, 8) {
        Ok(mode) if mode <= 0o777 && !value.starts_with('+') => Ok(mode),
        _ => Err(wrong(option, &value, "an octal mode from 0000 to 0777")),
    }
}
