//! The JSON form of the type of a field, with the options of that type.

use regex_lite::Regex;
use serde_json::{Value, json};

use super::field::PasswordLimits;
use super::field_options::Options;
use super::parse::REQUIRED;
use super::pattern::Generator;
use super::{DomainOptions, FieldKind, FileOptions, RelationOptions, TextOptions, TimeOptions};
use crate::base::clock;

/// The `maxSelect` that PocketBase shows for a list without a limit.
const UNLIMITED: usize = 2_147_483_647;
/// Default size limit of a json or editor value.
const BYTES_MAX_DEFAULT: usize = 1 << 20;
/// Default size limit of a file.
const FILE_BYTES_MAX_DEFAULT: u64 = 5 << 20;
const PATTERN_BYTES_MAX: usize = 1000;
const PASSWORD_CHARS_MIN: usize = 8;
const TOO_SMALL: &str = "validation_min_greater_equal_than_required";

/// None if the type is unknown.
pub fn parse_field_kind(options: &mut Options<'_>) -> Option<FieldKind> {
    let kind = options.text("type").unwrap_or_default();
    Some(match kind.as_str() {
        "text" => FieldKind::Text(parse_text_options(options)),
        "email" => FieldKind::Email(parse_domains(options)),
        "url" => FieldKind::Url(parse_domains(options)),
        "editor" => FieldKind::Editor {
            bytes_max: bytes_max(options),
            converts_urls: options.flag("convertURLs") | options.flag("convertUrls"),
        },
        "number" => parse_number(options),
        "bool" => FieldKind::Bool,
        "date" => FieldKind::Date(parse_times(options, clock::day_or_moment)),
        "datetime" => FieldKind::Datetime(parse_times(options, |text| {
            clock::parse_datetime(text).map(clock::format_ms)
        })),
        "select" => FieldKind::Select {
            values: parse_values(options),
            select_max: select_max(options),
        },
        "json" => FieldKind::Json {
            bytes_max: bytes_max(options),
        },
        "relation" => FieldKind::Relation(parse_relation(options)),
        "file" => FieldKind::File(FileOptions {
            select_max: select_max(options),
            bytes_max: options
                .count_above_zero("maxSize")
                .map_or(FILE_BYTES_MAX_DEFAULT, |size| size as u64),
            media_types: options.texts("mimeTypes"),
            protected: options.flag("protected"),
            thumbs: options.texts("thumbs"),
        }),
        "password" => FieldKind::Password {
            chars_min: options.count("min").unwrap_or(PASSWORD_CHARS_MIN).max(1),
            limits: PasswordLimits {
                chars_max: options.count_above_zero("max"),
                pattern: parse_pattern(options),
                cost: options.count("cost").unwrap_or(0),
            },
        },
        "autodate" => parse_autodate(options),
        "geoPoint" => FieldKind::GeoPoint,
        _ => {
            let message = "The type must be text, email, url, editor, number, bool, date, datetime, \
                           autodate, select, json, relation, file, geoPoint or password.";
            options.refuse_at("type", message);
            return None;
        }
    })
}

fn parse_number(options: &mut Options<'_>) -> FieldKind {
    let (min, max) = (options.number("min"), options.number("max"));
    if let (Some(least), Some(most)) = (min, max)
        && most < least
    {
        let message = format!("Must be greater or equal than {least}.");
        options.refuse("max", "validation_min_number_constraint", message);
    }
    FieldKind::Number {
        min,
        max,
        integers_only: options.flag("onlyInt") | options.flag("noDecimal"),
    }
}

fn parse_autodate(options: &mut Options<'_>) -> FieldKind {
    let (on_create, on_update) = (options.flag("onCreate"), options.flag("onUpdate"));
    if !on_create && !on_update {
        for name in ["onCreate", "onUpdate"] {
            options.refuse(name, REQUIRED, "An autodate needs onCreate or onUpdate.");
        }
    }
    FieldKind::Autodate {
        on_create,
        on_update,
    }
}

fn parse_relation(options: &mut Options<'_>) -> RelationOptions {
    let collection_id = options.text("collectionId").unwrap_or_default();
    if collection_id.is_empty() {
        options.refuse("collectionId", REQUIRED, "A relation needs a collectionId.");
    }
    // Before 0.23 a relation without `maxSelect` had no limit.
    let is_unlimited = options.is_nested && options.is_null("maxSelect");
    let select_max = match is_unlimited {
        true => UNLIMITED,
        false => select_max(options),
    };
    let select_min = options.count("minSelect").unwrap_or(0);
    if select_min > select_max {
        let message = format!("Must be at most {select_max}, the maxSelect.");
        options.refuse_at("minSelect", message);
    }
    RelationOptions {
        collection_id,
        select_min,
        select_max,
        cascade_delete: options.flag("cascadeDelete"),
    }
}

fn parse_text_options(options: &mut Options<'_>) -> TextOptions {
    let text = options.text("autogeneratePattern").unwrap_or_default();
    let mut autogenerate = None;
    if !text.is_empty() {
        match Generator::parse(&text) {
            Ok(generator) => autogenerate = Some(generator),
            Err(message) => {
                options.refuse("autogeneratePattern", "validation_invalid_regex", message);
            }
        }
    }
    let chars_min = options.count("min").unwrap_or(0);
    let chars_max = options.count_above_zero("max");
    if chars_max.is_some_and(|max| max < chars_min) {
        options.refuse(
            "max",
            TOO_SMALL,
            format!("Must be no less than {chars_min}."),
        );
    }
    TextOptions {
        chars_min,
        chars_max,
        pattern: parse_pattern(options),
        autogenerate,
    }
}

fn parse_pattern(options: &mut Options<'_>) -> Option<Regex> {
    const CODE: &str = "validation_invalid_regex";
    let pattern = options.text("pattern").filter(|text| !text.is_empty())?;
    if pattern.len() > PATTERN_BYTES_MAX {
        options.refuse("pattern", CODE, "The pattern is longer than 1000 bytes.");
        return None;
    }
    let plain = pattern.replace(r"\\", "");
    if plain.contains(r"\p") || plain.contains(r"\P") {
        let message = r"Classes such as \p{L} are not supported in patterns; list the letters, as in [A-Za-z].";
        options.refuse("pattern", CODE, message);
        return None;
    }
    match Regex::new(&pattern) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            options.refuse("pattern", CODE, format!("The pattern is invalid: {error}."));
            None
        }
    }
}

fn parse_domains(options: &mut Options<'_>) -> DomainOptions {
    let only = options.texts("onlyDomains");
    let except = options.texts("exceptDomains");
    if !only.is_empty() && !except.is_empty() {
        for name in ["onlyDomains", "exceptDomains"] {
            let message = "Only one of onlyDomains and exceptDomains can be given.";
            options.refuse(name, "validation_empty", message);
        }
    }
    DomainOptions { only, except }
}

fn parse_times(options: &mut Options<'_>, read: impl Fn(&str) -> Option<String>) -> TimeOptions {
    let mut bound = |name: &str| {
        let text = options.text(name).filter(|text| !text.is_empty())?;
        let time = read(&text);
        if time.is_none() {
            options.refuse_at(name, "Must be a date such as 2026-01-31.");
        }
        time
    };
    TimeOptions {
        min: bound("min"),
        max: bound("max"),
    }
}

fn bytes_max(options: &mut Options<'_>) -> usize {
    options
        .count_above_zero("maxSize")
        .unwrap_or(BYTES_MAX_DEFAULT)
}

/// The bytes of a record bound the values of a list without a limit.
fn select_max(options: &mut Options<'_>) -> usize {
    let count = options.count("maxSelect").unwrap_or(1);
    count.clamp(1, UNLIMITED)
}

fn parse_values(options: &mut Options<'_>) -> Vec<String> {
    let mut values = options.texts("values");
    // A value with a leading bracket would look like a list of values.
    let is_wrong =
        |value: &String| value.is_empty() || value.contains('\0') || value.starts_with('[');
    if values.is_empty() {
        options.refuse("values", REQUIRED, "A select needs values.");
    } else if values.iter().any(is_wrong) {
        options.refuse_at("values", "A value must not be empty or begin with [.");
    }
    let has_twice = |value: &&String| values.iter().filter(|other| other == value).count() > 1;
    if let Some(value) = values.iter().find(has_twice).cloned() {
        options.refuse_at("values", format!("The value {value} is listed twice."));
    }
    values.retain(|value| !is_wrong(value));
    values
}

/// The options in the form for clients. A limit of 0 is the default, as in PocketBase.
pub fn kind_to_json(kind: &FieldKind) -> Value {
    let pattern = |pattern: &Option<Regex>| pattern.as_ref().map_or("", Regex::as_str).to_owned();
    match kind {
        FieldKind::Text(options) => json!({
            "min": options.chars_min,
            "max": options.chars_max.unwrap_or(0),
            "pattern": pattern(&options.pattern),
            "autogeneratePattern": options.autogenerate.as_ref().map_or("", Generator::text),
            "primaryKey": false,
        }),
        FieldKind::Email(options) | FieldKind::Url(options) => json!({
            "onlyDomains": options.only,
            "exceptDomains": options.except,
        }),
        FieldKind::Editor {
            bytes_max,
            converts_urls,
        } => json!({"maxSize": shown_size(*bytes_max), "convertURLs": converts_urls}),
        FieldKind::Json { bytes_max } => json!({"maxSize": shown_size(*bytes_max)}),
        FieldKind::Number {
            min,
            max,
            integers_only,
        } => json!({"min": min, "max": max, "onlyInt": integers_only}),
        FieldKind::Date(options) | FieldKind::Datetime(options) => json!({
            "min": options.min.as_deref().unwrap_or_default(),
            "max": options.max.as_deref().unwrap_or_default(),
        }),
        FieldKind::Select { values, select_max } => {
            json!({"values": values, "maxSelect": select_max})
        }
        FieldKind::Relation(options) => json!({
            "collectionId": options.collection_id,
            "minSelect": options.select_min,
            "maxSelect": options.select_max,
            "cascadeDelete": options.cascade_delete,
        }),
        FieldKind::File(options) => json!({
            "maxSelect": options.select_max,
            "maxSize": match options.bytes_max {
                FILE_BYTES_MAX_DEFAULT => 0,
                bytes => bytes,
            },
            "mimeTypes": options.media_types,
            "protected": options.protected,
            "thumbs": options.thumbs,
        }),
        FieldKind::Password { chars_min, limits } => json!({
            "min": chars_min,
            "max": limits.chars_max.unwrap_or(0),
            "pattern": pattern(&limits.pattern),
            "cost": limits.cost,
        }),
        FieldKind::Autodate {
            on_create,
            on_update,
        } => json!({"onCreate": on_create, "onUpdate": on_update}),
        FieldKind::Bool | FieldKind::GeoPoint => json!({}),
    }
}

fn shown_size(bytes: usize) -> usize {
    match bytes {
        BYTES_MAX_DEFAULT => 0,
        bytes => bytes,
    }
}
