//! Any text is taken or refused; what is taken is shown in a form that reads back as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lowtide::config::parse;

fuzz_target!(|text: &str| match parse("input", text) {
    Ok(loaded) => {
        let shown = loaded.effective.toml();
        let again = parse("shown", &shown).unwrap_or_else(|p| panic!("{p}\n{shown}"));
        assert_eq!(again.policy, loaded.policy);
        loaded.matcher.nearest(text.as_bytes());
    }
    Err(problems) => assert!(!problems.to_string().is_empty()),
});
