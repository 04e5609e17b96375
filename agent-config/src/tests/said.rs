//! What is said about bad configs, word for word. `UPDATE_EXPECT=1 cargo test` writes it anew.

use crate::{Loaded, Problems};
use expect_test::{ExpectFile, expect_file};

fn check(result: Result<Loaded, Problems>, expected: ExpectFile) {
    let said = match result {
        Ok(loaded) => format!("{}\nusable\n", loaded.warnings),
        Err(problems) => format!("{problems}\nrefused\n"),
    };
    expected.assert_eq(&said);
}

macro_rules! golden {
    ($($name:ident),*) => {$(
        #[test]
        fn $name() {
            let file = concat!(stringify!($name), ".toml");
            let text = include_str!(concat!("golden/", stringify!($name), ".toml"));
            let said = expect_file![concat!("golden/", stringify!($name), ".txt")];
            check(super::parse(file, text), said);
        }
    )*};
}

golden!(
    everything,
    together,
    syntax,
    warnings,
    quotes,
    never_holds,
    meant,
    taken
);
