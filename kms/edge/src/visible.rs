//! Text from outside, so that it cannot move the cursor, change colours, or turn the order of letters.

/// `text` with every character that a terminal would not simply show written as an escape.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut before = String::from("x");
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => shown.push(character),
            _ => {
                // A mark that combines with the letter before it is escaped where it stands alone only.
                before.truncate(1);
                before.push(character);
                shown.extend(before.escape_debug().skip(1));
            }
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_steer_a_terminal_is_escaped() {
        assert_eq!(visible("\x1b[2Jred\u{202e}evil\r\n\u{7}"), "\\u{1b}[2Jred\\u{202e}evil\\r\\n\\u{7}");
        assert_eq!(visible("a\u{9b}31m\u{200b}"), "a\\u{9b}31m\\u{200b}");
    }

    #[test]
    fn what_people_read_is_not_escaped() {
        let text = "Grüße \"2.0\" 'x' C:\\a हिन्दी 版本 ✓";
        assert_eq!(visible(text), text);
    }
}
