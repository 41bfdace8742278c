//! Laws of reading a configuration that hold for any text. Property tests and the fuzzer (`tests/fuzz`) assert them.

use super::{Config, ConfigErrors, admin_of, is_backend_name, parse, read_backends, to_json, to_yaml};

/// Asserts the laws for a file with these contents.
///
/// # Panics
/// If a law does not hold.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return }; // the file is refused before it is parsed
    let variables = |name: &str| (!name.contains('_')).then(|| name.to_lowercase());
    match parse("pointsman.yaml", text, &variables) {
        Ok(config) => {
            assert!(
                admin_of(text, &variables) == config.admin,
                "the address of the admin server in {text:?}"
            );
            // Whatever was understood is written so that it is understood in the same way.
            let none = |_: &str| None;
            let json =
                serde_json::to_string(&to_json(&config)).expect("it has no map with other keys than text");
            for written in [to_yaml(&config), json] {
                let again: Result<Config, _> = parse("written", &written, &none);
                assert!(
                    again.as_ref() == Ok(&config),
                    "{text:?} was written as\n{written}and read as {again:?}"
                );
            }
        }
        Err(errors) => are_shown(&errors, text),
    }
    match read_backends("backends.yaml", text) {
        Ok(backends) => {
            assert!(backends.iter().all(|backend| is_backend_name(&backend.name)), "{backends:?}");
        }
        Err(errors) => are_shown(&errors, text),
    }
}

/// Asserts that there is an error, and that each one is where the file has a line.
fn are_shown(errors: &ConfigErrors, text: &str) {
    assert!(!errors.problems().is_empty(), "{text:?} is refused without an error");
    // An error at the end of a file is behind its last line. A carriage return is a line break of its own (YAML 1.2, 5.4).
    let lines = text.split(['\n', '\r']).count();
    for problem in errors.problems() {
        assert!(!problem.message.trim().is_empty(), "{text:?} has an error without a text");
        let within = |line| (1..=lines).contains(&line);
        assert!(problem.at.is_none_or(|at| within(at.line) && at.column > 0), "{problem:?} in {text:?}");
    }
    assert!(!errors.to_string().is_empty());
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_text_is_understood_or_refused() {
        crate::testing::corpus::hold("configuration", super::check);
    }
}
