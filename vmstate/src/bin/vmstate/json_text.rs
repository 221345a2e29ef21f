//! Whether bytes that pass by are one JSON object, in memory of a fixed size.
//!
//! The structure is checked: brackets match, strings and escapes end, commas and colons stand between values. Numbers and the words
//! `true`, `false` and `null` are not looked into. Text that is nested more than 128 deep is not recognized.

/// One JSON object, as far as it has passed.
#[derive(Default)]
pub(crate) struct JsonText {
    state: State,
    depth: u32,
    /// A bit for each open bracket, the innermost lowest: set for `{`.
    objects: u128,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// Before the object.
    #[default]
    Before,
    /// After `{`: a key or the end.
    FirstKey,
    /// After a comma in an object.
    Key,
    /// In a string; a key's if `true`.
    String(bool),
    /// After a backslash in a string.
    Escape(bool),
    /// After a key.
    Colon,
    /// After `[`: a value or the end.
    FirstValue,
    /// After a colon, or after a comma in an array.
    Value,
    /// In a number or a word.
    Word,
    /// After a value: a comma or the end.
    AfterValue,
    /// The object is complete.
    Complete,
    Wrong,
}

impl JsonText {
    /// The next bytes.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.state == State::Wrong {
                return;
            }
            self.state = self.next(*byte);
        }
    }

    /// True if the object has ended, and nothing but white space came after it.
    pub(crate) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    fn next(&mut self, byte: u8) -> State {
        match (self.state, byte) {
            (State::String(key), b'"') => match key {
                true => State::Colon,
                false => State::AfterValue,
            },
            (State::String(key), b'\\') => State::Escape(key),
            (State::String(_), b'\t' | b'\n' | b'\r') => State::Wrong,
            (State::String(key) | State::Escape(key), _) => State::String(key),
            (State::Word, b' ' | b'\t' | b'\n' | b'\r') => State::AfterValue,
            (state, b' ' | b'\t' | b'\n' | b'\r') => state,
            (State::Before | State::FirstValue | State::Value, b'{') => {
                self.open(true, State::FirstKey)
            }
            (State::FirstKey | State::Key, b'"') => State::String(true),
            (State::Colon, b':') => State::Value,
            (State::FirstValue | State::Value, b'[') => self.open(false, State::FirstValue),
            (State::FirstValue | State::Value, b'"') => State::String(false),
            (State::FirstValue | State::Value, b'-' | b'0'..=b'9' | b'a'..=b'z') => State::Word,
            (State::Word, b'-' | b'+' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'E') => State::Word,
            (State::FirstKey | State::AfterValue | State::Word, b'}') => self.close(true),
            (State::FirstValue | State::AfterValue | State::Word, b']') => self.close(false),
            (State::AfterValue | State::Word, b',') => match self.objects & 1 {
                1 => State::Key,
                _ => State::Value,
            },
            _ => State::Wrong,
        }
    }

    fn open(&mut self, object: bool, then: State) -> State {
        if self.depth == u128::BITS {
            return State::Wrong;
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        then
    }

    fn close(&mut self, object: bool) -> State {
        if (self.objects & 1 == 1) != object {
            return State::Wrong;
        }
        self.depth -= 1;
        self.objects >>= 1;
        match self.depth {
            0 => State::Complete,
            _ => State::AfterValue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_object(text: &str) -> bool {
        let mut json = JsonText::default();
        json.see(text.as_bytes());
        json.is_complete()
    }

    #[test]
    fn objects_are_complete_with_their_last_bracket() {
        for text in [
            "{}",
            " { \"a\" : 1 } \n",
            r#"{"a": "\"}", "b": [], "c": [1, -2.5e+3, true, null, {"d": {}}]}"#,
        ] {
            assert!(is_object(text), "{text}");
            let whole = text.trim_end();
            for len in 0..whole.len() {
                assert!(!is_object(&whole[..len]), "{}", &whole[..len]);
            }
        }
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for text in [
            "",
            "[]",
            "1",
            "{]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":[1}",
            "{\"a\":1 2}",
            "{}{}",
            "{a:1}",
        ] {
            assert!(!is_object(text), "{text}");
        }
    }

    #[test]
    fn brackets_nest_to_a_limit() {
        let nested = |depth: usize| {
            let (open, close) = ("{\"a\":".repeat(depth), "}".repeat(depth));
            format!("{open}1{close}")
        };
        assert!(is_object(&nested(100)));
        assert!(!is_object(&nested(200)));
    }
}
