//! `${NAME}`, `${NAME:-default}` and `${NAME:?message}` in values, as in Compose files; `$$` is a dollar sign.

use super::problem::{FilePosition, Problem};
use super::yaml::{YamlNode, YamlValue};

/// Where the variables come from.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces the variables in all values of a tree.
pub(super) fn substitute(node: &mut YamlNode, variables: Variables<'_>, problems: &mut Vec<Problem>) {
    match &mut node.value {
        YamlValue::Null => {}
        YamlValue::Scalar(text) => match replace(text, variables) {
            Ok(replaced) => *text = replaced,
            Err((offset, message)) => {
                let at = FilePosition { line: node.at.line, column: node.at.column + offset };
                problems.push(Problem { at: Some(at), message });
            }
        },
        YamlValue::List(list) => list.iter_mut().for_each(|item| substitute(item, variables, problems)),
        YamlValue::Map(pairs) => {
            pairs.iter_mut().for_each(|(_, value)| substitute(value, variables, problems));
        }
    }
}

/// Reports variables where none are allowed; the values stay unchanged.
pub(super) fn refuse(node: &mut YamlNode, problems: &mut Vec<Problem>) {
    match &mut node.value {
        YamlValue::Null => {}
        YamlValue::Scalar(text) => {
            if text.contains("${") {
                let message = "variables are replaced in the configuration only; write what it stands for";
                problems.push(Problem { at: Some(node.at), message: message.to_owned() });
            }
        }
        YamlValue::List(list) => list.iter_mut().for_each(|item| refuse(item, problems)),
        YamlValue::Map(pairs) => pairs.iter_mut().for_each(|(_, value)| refuse(value, problems)),
    }
}

/// Replaces the variables in a text; an error comes with its offset, in characters.
fn replace(text: &str, variables: Variables<'_>) -> Result<String, (usize, String)> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(index) = rest.find('$') {
        out.push_str(&rest[..index]);
        let after = &rest[index + 1..];
        if let Some(literal) = after.strip_prefix('$') {
            out.push('$');
            rest = literal;
            continue;
        }
        let Some(inside) = after.strip_prefix('{') else {
            out.push('$');
            rest = after;
            continue;
        };
        let offset = text[..text.len() - rest.len() + index].chars().count();
        let Some((expression, remaining)) = inside.split_once('}') else {
            return Err((offset, "${ without its }; write $$ for a dollar sign".to_owned()));
        };
        out.push_str(&evaluate(expression, variables).map_err(|message| (offset, message))?);
        rest = remaining;
    }
    out.push_str(rest);
    Ok(out)
}

fn evaluate(expression: &str, variables: Variables<'_>) -> Result<String, String> {
    let end = expression.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(expression.len());
    let (name, rest) = expression.split_at(end);
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!("${{{expression}}} names no variable: names are letters, digits and _"));
    }
    // As in the shell, a variable that is set to nothing counts as unset for `:-` and `:?`.
    let value = variables(name);
    let full = || value.clone().filter(|value| !value.is_empty());
    if rest.is_empty() {
        return value.ok_or_else(|| {
            format!("the variable {name} is not set; write ${{{name}:-default}} to do without")
        });
    }
    if let Some(default) = rest.strip_prefix(":-") {
        return Ok(full().unwrap_or_else(|| default.to_owned()));
    }
    if let Some(message) = rest.strip_prefix(":?") {
        let message = if message.is_empty() { "it must be set" } else { message };
        return full().ok_or_else(|| format!("the variable {name} is not set: {message}"));
    }
    Err(format!("${{{expression}}}: after the name only :-default or :?message may follow"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(text: &str) -> Result<String, (usize, String)> {
        replace(text, &|name| match name {
            "PORT" => Some("8080".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_replaced() {
        assert_eq!(run("0.0.0.0:${PORT}").unwrap(), "0.0.0.0:8080");
        assert_eq!(run("${NONE:-1}${EMPTY:-2}${PORT:-3}").unwrap(), "128080");
        assert_eq!(run("${EMPTY}|$$|${PORT:?needed}|$x").unwrap(), "|$|8080|$x");
        assert_eq!(run("$${PORT}").unwrap(), "${PORT}");
    }

    #[test]
    fn an_error_has_its_offset() {
        assert_eq!(run("a ${NONE}").unwrap_err().0, 2);
        assert!(run("${NONE:?the port to use}").unwrap_err().1.contains("the port to use"));
        assert!(run("${PORT").is_err());
        assert!(run("${}").is_err());
        assert!(run("${PORT:+x}").is_err());
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_stays_as_it_is(text in "[^$]*") {
            prop_assert_eq!(run(&text).unwrap(), text);
        }

        #[test]
        fn a_variable_in_a_variables_value_is_not_replaced(value in ".*") {
            let given = value.clone();
            prop_assert_eq!(replace("<${X}>", &move |_| Some(given.clone())).unwrap(), format!("<{value}>"));
        }

        #[test]
        fn doubled_dollars_escape_any_text(text in ".*") {
            prop_assert_eq!(run(&text.replace('$', "$$")).unwrap(), text);
        }
    }
}
