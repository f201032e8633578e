use super::*;

/// From JSONTestSuite (`test_parsing/y_*.json`): what every parser must accept.
const VALID: &[&str] = &[
    "[[]   ]",
    "[\"\"]",
    "[]",
    "[\"a\"]",
    "[false]",
    "[null, 1, \"1\", {}]",
    "[null]",
    "[1\n]",
    " [1]",
    "[1,null,null,null,2]",
    "[2] ",
    "[123e65]",
    "[0e+1]",
    "[0e1]",
    "[ 4]",
    "[-0.000000000000000000000000000000000000000000000000000000000000000000000000000001]\n",
    "[20e1]",
    "[-0]",
    "[-123]",
    "[-1]",
    "[1E22]",
    "[1E-2]",
    "[1E+2]",
    "[123e45]",
    "[123.456e78]",
    "[1e-2]",
    "[1e+2]",
    "[123]",
    "[123.456789]",
    r#"{"asd":"sdf", "dfg":"fgh"}"#,
    r#"{"asd":"sdf"}"#,
    r#"{"a":"b","a":"c"}"#,
    r#"{"a":"b","a":"b"}"#,
    "{}",
    r#"{"":0}"#,
    r#"{"foo\u0000bar": 42}"#,
    r#"{ "min": -1.0e+28, "max": 1.0e+28 }"#,
    r#"{"a":[]}"#,
    r#"{"title":"\u041f\u043e"}"#,
    "{\n\"a\": \"b\"\n}",
    r#"["\u0060\u012a\u12AB"]"#,
    r#"["\uD801\udc37"]"#,
    r#"["\"\\\/\b\f\n\r\t"]"#,
    r#"["\\u0000"]"#,
    r#"["\""]"#,
    r#"["a/*b*/c/*d//e"]"#,
    r#"["\\a"]"#,
    r#"["\\n"]"#,
    r#"["\u0012"]"#,
    r#"["\uFFFF"]"#,
    "[\"\u{10ffff}\"]",
    "[\"\u{ffff}\"]",
    r#"["\u0000"]"#,
    r#"["\u002c"]"#,
    "[\"π\"]",
    "[\"\u{1bfff}\"]",
    "[\"asd \"]",
    "\" \"",
    r#"["\uD834\uDd1e"]"#,
    "[\"\u{2028}\"]",
    "[\"\u{2029}\"]",
    r#"["\uA66D"]"#,
    "[\"⍂㈴⍂\"]",
    "[\"\u{7f}\"]",
    "false",
    "42",
    "-0.1",
    "null",
    "\"asd\"",
    "true",
    "\"\"",
    "[\"a\"]\n",
    "[true]",
    " [] ",
];

/// From JSONTestSuite (`test_parsing/n_*.json`): what every parser must refuse.
const INVALID: &[&str] = &[
    "[1 true]",
    "[\"\": 1]",
    "[\"\"],",
    "[,1]",
    "[1,,2]",
    "[\"x\",,]",
    "[\"x\"]]",
    "[\"\",]",
    "[\"x\"",
    "[x",
    "[3[4]]",
    "[1:2]",
    "[,]",
    "[-]",
    "[   , \"\"]",
    "[\"a\",\n4\n,1,",
    "[1,]",
    "[1,,]",
    "[\"\x0ba\"\\f]",
    "[*]",
    "[\"\"",
    "[1,",
    "[{}",
    "[fals]",
    "[nul]",
    "[tru]",
    "123\0",
    "[++1234]",
    "[+1]",
    "[+Inf]",
    "[-01]",
    "[-1.0.]",
    "[-2.]",
    "[-NaN]",
    "[.-1]",
    "[.2e-3]",
    "[0.1.2]",
    "[0.3e+]",
    "[0.3e]",
    "[0.e1]",
    "[0E+]",
    "[0E]",
    "[0e+]",
    "[0e]",
    "[1.0e+]",
    "[1.0e-]",
    "[1.0e]",
    "[1 000.0]",
    "[1eE2]",
    "[2.e+3]",
    "[2.e-3]",
    "[2.e3]",
    "[9.e+]",
    "[Inf]",
    "[NaN]",
    "[１]",
    "[1+2]",
    "[0x1]",
    "[0x42]",
    "[Infinity]",
    "[0e+-1]",
    "[-123.123foo]",
    "[-Infinity]",
    "[-foo]",
    "[- 1]",
    "[-012]",
    "[-.123]",
    "[-1x]",
    "[1ea]",
    "[1.]",
    "[.123]",
    "[1.2a-3]",
    "[1.8011670033376514H-308]",
    "[012]",
    "[\"x\", truth]",
    "{[: \"x\"}",
    "{\"x\", null}",
    "{\"x\"::\"b\"}",
    "{🇨🇭}",
    "{\"a\":\"a\" 123}",
    "{key: 'value'}",
    "{\"a\" b}",
    "{:\"b\"}",
    "{\"a\" \"b\"}",
    "{\"a\":",
    "{\"a\"",
    "{1:1}",
    "{9999E9999:1}",
    "{null:null,null:null}",
    "{\"id\":0,,,,,}",
    "{'a':0}",
    "{\"id\":0,}",
    "{\"a\":\"b\"}/**/",
    "{\"a\":\"b\"}/**//",
    "{\"a\":\"b\"}//",
    "{\"a\":\"b\"}/",
    "{\"a\":\"b\",,\"c\":\"d\"}",
    "{a: \"b\"}",
    "{\"a\":\"a",
    "{ \"foo\" : \"bar\", \"a\" }",
    "{\"a\":\"b\"}#",
    " ",
    "[\"\\uD800\\\"]",
    "[\"\\uD800\\u\"]",
    "[\"\\uD800\\u1\"]",
    "[\"\\uD800\\u1x\"]",
    "[é]",
    "[\"\\\0\"]",
    "[\"\\x00\"]",
    "[\"\\\\\\\"]",
    "[\"\\\t\"]",
    "[\"\\🌀\"]",
    "[\"\\\"]",
    "[\"\\u00A\"]",
    "[\"\\uD834\\uDd\"]",
    "[\"\\a\"]",
    "[\\u0020\"asd\"]",
    "[\\n]",
    "\"",
    "['single quote']",
    "abc",
    "[\"\\",
    "[\"a\0a\"]",
    "[\"new\nline\"]",
    "[\"\t\"]",
    "\"\\UA66D\"",
    "\"\"x",
    "<.>",
    "[<null>]",
    "[1]x",
    "[1]]",
    "[\"asd]",
    "aå",
    "[True]",
    "1]",
    "{\"x\": true,",
    "[][]",
    "]",
    "",
    "[",
    "{",
    "2@",
    "{}}",
    "{\"\":",
    "{\"a\":/*comment*/\"b\"}",
    "{\"a\": true} \"x\"",
    "['",
    "[,",
    "[{\"",
    "{[",
    "{,",
    "{]",
    "{\"a",
    "{'a'",
    "[\"\\{[\"\\{[\"\\{[\"\\{",
    "*",
    "{\"a\":\"b\"}#{}",
    "[\\u000A\"\"]",
    "[1",
    "[ false, nul",
    "[ true, fals",
    "[ false, tru",
    "{\"asd\":\"asd\"",
    "å",
    "\u{feff}{}",
    "[\u{c}]",
    "[\u{2060}]",
    "\u{feff}",
];

#[test]
fn what_every_parser_must_accept_is_accepted() {
    for document in VALID {
        assert_eq!(parse(document.as_bytes()).map(|value| value.raw()), Ok(document.trim_matches(is_blank)), "{document:?}");
    }
}

#[test]
fn what_every_parser_must_refuse_is_refused() {
    for document in INVALID {
        assert!(parse(document.as_bytes()).is_err(), "{document:?}");
    }
    for document in [&b"[\"\xff\"]"[..], b"[\xff]", b"[1\xe5]", b"\xef\xbb", b"[\"\xed\xa0\x80\"]", b"[\"a\xff"] {
        assert!(parse(document).is_err(), "{document:?}");
    }
}

#[test]
fn every_cut_and_every_changed_byte_is_survived() {
    let document = br#" {"a\n":[1,-2.5e3,"\ud834\udd1e",{"b":null}], "c" : true} "#;
    for cut in 0..document.len() - 1 {
        assert!(parse(&document[..cut]).is_err(), "{cut}");
    }
    for at in 0..document.len() {
        for byte in [0, b'"', b'\\', b'{', b'}', b'[', b']', b',', b':', b'u', b'9', 0x80, 0xff] {
            let mut changed = *document;
            changed[at] = byte;
            if let Ok(value) = parse(&changed) {
                walk(value);
            }
        }
    }
}

/// Looks at everything in a value.
fn walk(value: Value<'_>) -> usize {
    let own = value.as_str().map_or(1, |text| text.len());
    own + value.items().map(walk).sum::<usize>() + value.members().map(|(name, value)| name.len() + walk(value)).sum::<usize>()
}

#[test]
fn depth_is_bounded_and_costs_no_stack() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(parse(nested(DEPTH as usize).as_bytes()).is_ok());
    for document in [nested(DEPTH as usize + 1), "[".repeat(1 << 20), r#"{"a":"#.repeat(1 << 20)] {
        assert_eq!(parse(document.as_bytes()).map_err(|problem| problem.what), Err("nested too deep"));
    }
}

#[test]
fn a_problem_says_where() {
    assert_eq!(parse(br#"{"a": nope}"#).unwrap_err().to_string(), "a value is expected at byte 6");
    assert_eq!(parse(b"[1 2]").unwrap_err().to_string(), "a comma or the end of the array or object is expected at byte 3");
}

/// The examples of RFC 6901, section 5.
#[test]
fn pointers_find_what_the_rfc_says() {
    let document = br#"{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8}"#;
    let value = parse(document).unwrap();
    for (pointer, found) in [
        ("/foo", r#"["bar", "baz"]"#),
        ("/foo/0", "\"bar\""),
        ("/", "0"),
        ("/a~1b", "1"),
        ("/c%d", "2"),
        ("/e^f", "3"),
        ("/g|h", "4"),
        ("/i\\j", "5"),
        ("/k\"l", "6"),
        ("/ ", "7"),
        ("/m~0n", "8"),
    ] {
        assert_eq!(value.pointer(pointer).map(Value::raw), Some(found), "{pointer}");
    }
    assert_eq!(value.pointer(""), Some(value));
    for pointer in ["foo", "/foo/2", "/foo/-", "/foo/00", "/foo/+1", "/foo/bar", "/fo", "/foo/0/", "//", "/foo/99999999999999999999"] {
        assert_eq!(value.pointer(pointer), None, "{pointer}");
    }
}

#[test]
fn values_are_read_as_what_they_are() {
    let value = parse(br#"[3, -4, 2.5e1, "a\u00e9\ud834\udd1e\ud834x\/\n", true, null, 18446744073709551616]"#).unwrap();
    let at = |index| value.items().nth(index).unwrap();
    assert_eq!((at(0).as_u64(), at(0).as_i64(), at(0).as_f64(), at(0).as_str()), (Some(3), Some(3), Some(3.0), None));
    assert_eq!((at(1).as_u64(), at(1).as_i64()), (None, Some(-4)));
    assert_eq!((at(2).as_i64(), at(2).as_f64()), (None, Some(25.0)));
    assert_eq!(at(3).as_str().unwrap(), "aé\u{1d11e}\u{fffd}x/\n");
    assert_eq!((at(4).as_bool(), at(4).kind(), at(4).as_f64()), (Some(true), Kind::Bool, None));
    assert_eq!((at(5).kind(), at(6).as_u64(), value.items().count()), (Kind::Null, None, 7));
    assert_eq!((at(0).items().count(), value.members().count()), (0, 0));
}

#[test]
fn of_two_members_of_one_name_the_last_one_counts() {
    let value = parse(br#"{"a": 1, "b": {"a": 2}, "\u0061": 3}"#).unwrap();
    assert_eq!(value.get("a").unwrap().as_u64(), Some(3));
    assert_eq!(value.members().map(|(name, value)| format!("{name}{}", value.raw())).collect::<String>(), r#"a1b{"a": 2}a3"#);
}

#[test]
fn what_is_quoted_is_read_again() {
    let text: String = (0..0x300).filter_map(char::from_u32).chain(['\u{2028}', '\u{1d11e}']).collect();
    let mut quoted = String::new();
    quote(&text, &mut quoted);
    assert_eq!(parse(quoted.as_bytes()).unwrap().as_str().unwrap(), text);
}
