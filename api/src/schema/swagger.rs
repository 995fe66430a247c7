//! The OpenAPI document of version 2 in protobuf, which older clients ask for: `openapi.v2.Document`.
//!
//! Source: google/gnostic-models openapiv2/OpenAPIv2.proto. Only what our documents and the schemas of custom resources can hold
//! is listed here; what version 2 does not know is left out, as upstream does.

use serde_json::Value;

/// How a JSON value is written.
enum Form {
    Text,
    Bool,
    Integer,
    Double,
    /// Strings, or one string in place of a list of one.
    Texts,
    /// `Any`: a value of whatever sort as YAML, which JSON is.
    Any,
    /// A list.
    Each(&'static Form),
    /// An object whose names are data: a list of messages, each a name (1) and a value (2).
    Named(&'static Form),
    /// An object whose names are fields.
    Message(&'static Message),
    /// Alone in a message of its own, under this tag.
    In(u64, &'static Form),
    /// `AdditionalPropertiesItem`: a schema (1) or a boolean (2).
    SchemaOrBool,
}

use Form::{Any, Bool, Double, Each, In, Integer, Named, SchemaOrBool, Text, Texts};

struct Message {
    /// JSON name, tag, form.
    fields: &'static [(&'static str, u64, Form)],
    /// The tag of what begins with `x-`.
    extensions: u64,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Form::Message(&INFO)),
        ("paths", 8, In(2, &Named(&Form::Message(&PATH)))),
        ("definitions", 9, In(1, &Named(&Form::Message(&SCHEMA)))),
    ],
    extensions: 16,
};

static INFO: Message = Message {
    fields: &[("title", 1, Text), ("version", 2, Text)],
    extensions: 7,
};

static PATH: Message = Message {
    fields: &[
        ("get", 2, Form::Message(&OPERATION)),
        ("patch", 8, Form::Message(&OPERATION)),
    ],
    extensions: 10,
};

/// A parameter is one of two (1: not a reference), then one of two (2: not of a body), then one of four (3: of the query).
static OPERATION: Message = Message {
    fields: &[
        ("consumes", 7, Texts),
        (
            "parameters",
            8,
            Each(&In(1, &In(2, &In(3, &Form::Message(&QUERY))))),
        ),
        (
            "responses",
            9,
            In(1, &Named(&In(1, &Form::Message(&RESPONSE)))),
        ),
    ],
    extensions: 13,
};

static QUERY: Message = Message {
    fields: &[
        ("in", 2, Text),
        ("name", 4, Text),
        ("type", 6, Text),
        ("uniqueItems", 20, Bool),
    ],
    extensions: 23,
};

static RESPONSE: Message = Message {
    fields: &[("description", 1, Text)],
    extensions: 5,
};

static EXTERNAL_DOCS: Message = Message {
    fields: &[("description", 1, Text), ("url", 2, Text)],
    extensions: 3,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Any),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Bool),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Bool),
        ("maxLength", 11, Integer),
        ("minLength", 12, Integer),
        ("pattern", 13, Text),
        ("maxItems", 14, Integer),
        ("minItems", 15, Integer),
        ("uniqueItems", 16, Bool),
        ("maxProperties", 17, Integer),
        ("minProperties", 18, Integer),
        ("required", 19, Texts),
        ("enum", 20, Each(&Any)),
        ("additionalProperties", 21, SchemaOrBool),
        ("type", 22, In(1, &Texts)),
        ("items", 23, In(1, &Form::Message(&SCHEMA))),
        ("properties", 25, In(1, &Named(&Form::Message(&SCHEMA)))),
        ("externalDocs", 29, Form::Message(&EXTERNAL_DOCS)),
        ("example", 30, Any),
    ],
    extensions: 31,
};

/// A document of [`openapi_v2`](super::openapi_v2) in protobuf.
pub fn openapi_v2_protobuf(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    DOCUMENT.write(document, &mut out);
    out
}

impl Message {
    fn write(&self, value: &Value, out: &mut Vec<u8>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            if name.starts_with("x-") {
                field(self.extensions, out, |out| entry(name, value, &Any, out));
            } else if let Some((_, tag, form)) =
                self.fields.iter().find(|(known, ..)| known == name)
            {
                form.write(*tag, value, out);
            }
        }
    }
}

impl Form {
    /// Writes a field. A zero is not written, except where that it is there is what it says.
    fn write(&self, tag: u64, value: &Value, out: &mut Vec<u8>) {
        match self {
            Self::Text => text(tag, value.as_str().unwrap_or_default(), out),
            Self::Texts => match value {
                Value::Array(items) => items.iter().for_each(|item| Text.write(tag, item, out)),
                one => Text.write(tag, one, out),
            },
            Self::Bool if value == true => number(tag, 1, out),
            Self::Integer if value.as_i64().is_some_and(|number| number != 0) => {
                number(tag, value.as_i64().unwrap_or_default().cast_unsigned(), out);
            }
            Self::Double if value.as_f64().is_some_and(|number| number != 0.0) => {
                varint(tag << 3 | 1, out);
                out.extend(value.as_f64().unwrap_or_default().to_le_bytes());
            }
            Self::Bool | Self::Integer | Self::Double => {}
            Self::Any => field(tag, out, |out| text(2, &format!("{value}\n"), out)),
            Self::Each(form) => {
                for item in value.as_array().into_iter().flatten() {
                    form.write(tag, item, out);
                }
            }
            Self::Named(form) => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    field(tag, out, |out| entry(name, value, form, out));
                }
            }
            Self::Message(of) => field(tag, out, |out| of.write(value, out)),
            Self::In(inner, form) => field(tag, out, |out| form.write(*inner, value, out)),
            Self::SchemaOrBool => field(tag, out, |out| match value {
                Value::Bool(any) => number(2, u64::from(*any), out),
                schema => Self::Message(&SCHEMA).write(1, schema, out),
            }),
        }
    }
}

/// A value with its name.
fn entry(name: &str, value: &Value, form: &Form, out: &mut Vec<u8>) {
    text(1, name, out);
    form.write(2, value, out);
}

/// A field with a length before it.
fn field(tag: u64, out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    varint(tag << 3 | 2, out);
    let start = out.len();
    content(out);
    // The length is known only now, and nearly always takes a byte or two: moving is cheaper than a buffer for each.
    let mut length = Vec::with_capacity(4);
    varint((out.len() - start) as u64, &mut length);
    out.splice(start..start, length);
}

fn text(tag: u64, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        field(tag, out, |out| out.extend(text.as_bytes()));
    }
}

fn number(tag: u64, number: u64, out: &mut Vec<u8>) {
    varint(tag << 3, out);
    varint(number, out);
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).unwrap_or_default() | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::super::{ServedKind, openapi_v2};
    use super::*;

    /// The messages as OpenAPIv2.proto declares them: `name=tag:type`, `*` where repeated.
    const PROTO: &str = "
        AdditionalPropertiesItem schema=1:Schema boolean=2:bool
        Any yaml=2:string
        Definitions additional_properties=1*:NamedSchema
        Document swagger=1:string info=2:Info paths=8:Paths definitions=9:Definitions
        ExternalDocs description=1:string url=2:string vendor_extension=3*:NamedAny
        Info title=1:string version=2:string
        ItemsItem schema=1*:Schema
        NamedAny name=1:string value=2:Any
        NamedPathItem name=1:string value=2:PathItem
        NamedResponseValue name=1:string value=2:ResponseValue
        NamedSchema name=1:string value=2:Schema
        NonBodyParameter query_parameter_sub_schema=3:QueryParameterSubSchema
        Operation consumes=7*:string parameters=8*:ParametersItem responses=9:Responses vendor_extension=13*:NamedAny
        Parameter body_parameter=1:Schema non_body_parameter=2:NonBodyParameter
        ParametersItem parameter=1:Parameter
        PathItem get=2:Operation patch=8:Operation
        Paths path=2*:NamedPathItem
        Properties additional_properties=1*:NamedSchema
        QueryParameterSubSchema in=2:string name=4:string type=6:string unique_items=20:bool
        Response description=1:string
        ResponseValue response=1:Response
        Responses response_code=1*:NamedResponseValue
        Schema _ref=1:string format=2:string title=3:string description=4:string default=5:Any multiple_of=6:double \
            maximum=7:double exclusive_maximum=8:bool minimum=9:double max_length=11:int64 min_length=12:int64 \
            pattern=13:string unique_items=16:bool required=19*:string enum=20*:Any \
            additional_properties=21:AdditionalPropertiesItem type=22:TypeItem items=23:ItemsItem properties=25:Properties \
            external_docs=29:ExternalDocs example=30:Any vendor_extension=31*:NamedAny
        TypeItem value=1*:string";

    fn take_varint(bytes: &mut &[u8]) -> u64 {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let (first, rest) = bytes.split_first().expect("a byte");
            *bytes = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        number
    }

    /// Decodes a message; a field that it does not have is an error.
    fn decode(message: &str, mut bytes: &[u8]) -> Value {
        let line = PROTO.lines().map(str::trim);
        let mut declared = line.filter_map(|line| line.split_once(' '));
        let (_, fields) = declared
            .find(|(name, _)| *name == message)
            .unwrap_or_else(|| panic!("{message}"));
        let mut decoded = Map::new();
        while !bytes.is_empty() {
            let key = take_varint(&mut bytes);
            let mut fields = fields.split_whitespace().map(|field| {
                let (name, rest) = field.split_once('=').unwrap();
                let (tag, of) = rest.split_once(':').unwrap();
                (name, tag.trim_end_matches('*'), tag.ends_with('*'), of)
            });
            let (name, _, repeated, of) = fields
                .find(|(_, tag, ..)| *tag == (key >> 3).to_string())
                .unwrap_or_else(|| panic!("{message} has no field {}", key >> 3));
            let value = match (of, key & 7) {
                ("bool", 0) => json!(take_varint(&mut bytes) == 1),
                ("int64", 0) => json!(take_varint(&mut bytes)),
                ("double", 1) => {
                    let (number, rest) = bytes.split_at(8);
                    bytes = rest;
                    json!(f64::from_le_bytes(number.try_into().unwrap()))
                }
                (of, 2) => {
                    let length = usize::try_from(take_varint(&mut bytes)).unwrap();
                    let (content, rest) = bytes.split_at(length);
                    bytes = rest;
                    match of {
                        "string" => json!(std::str::from_utf8(content).unwrap()),
                        of => decode(of, content),
                    }
                }
                other => panic!("{message}.{name}: {other:?}"),
            };
            if repeated {
                let list = decoded.entry(name).or_insert_with(|| json!([]));
                list.as_array_mut().unwrap().push(value);
            } else {
                assert_eq!(decoded.insert(name.into(), value), None, "{message}.{name}");
            }
        }
        Value::Object(decoded)
    }

    /// The value of this name in a list of named ones.
    fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
        let mut items = list.as_array().unwrap().iter();
        let found = items.find(|item| item["name"] == name);
        &found.unwrap_or_else(|| panic!("no {name}"))["value"]
    }

    fn served(
        kind: &'static str,
        plural: &'static str,
        custom: Option<Value>,
    ) -> ServedKind<'static> {
        ServedKind {
            kind,
            plural,
            namespaced: true,
            custom: custom.map(|schema| ("com.example.v1.Custom".to_owned(), schema)),
        }
    }

    #[test]
    fn o4_the_document_in_protobuf_says_what_the_one_in_json_says() {
        let document = openapi_v2(&[("", "v1", vec![served("Service", "services", None)])]);
        let decoded = decode("Document", &openapi_v2_protobuf(&document));
        assert_eq!(decoded["swagger"], "2.0");
        assert_eq!(
            decoded["info"],
            json!({"title": "Kubernetes", "version": "v1"})
        );

        let definitions = &decoded["definitions"]["additional_properties"];
        let names: Vec<_> = definitions.as_array().unwrap().iter().collect();
        let names: Vec<_> = names
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        let expected: Vec<_> = document["definitions"]
            .as_object()
            .unwrap()
            .keys()
            .collect();
        assert_eq!(names, expected);
        for (name, schema) in document["definitions"].as_object().unwrap() {
            let (has, empty) = (named(definitions, name), Map::new());
            assert_eq!(has["description"], schema["description"], "{name}");
            let properties = schema["properties"].as_object().unwrap_or(&empty);
            for (property, schema) in properties {
                let has = named(&has["properties"]["additional_properties"], property);
                assert_eq!(
                    has["description"], schema["description"],
                    "{name}.{property}"
                );
                assert_eq!(has["_ref"], schema["$ref"], "{name}.{property}");
                let items = &has["items"]["schema"][0];
                assert_eq!(items["_ref"], schema["items"]["$ref"], "{name}.{property}");
                let of = &has["type"]["value"][0];
                assert_eq!(*of, schema["type"], "{name}.{property}");
            }
        }
        let spec = named(definitions, "io.k8s.api.core.v1.ServiceSpec");
        let ports = named(&spec["properties"]["additional_properties"], "ports");
        let extension = |name| named(&ports["vendor_extension"], name);
        let key = extension("x-kubernetes-patch-merge-key");
        assert_eq!(*key, json!({"yaml": "\"port\"\n"}));
        let keys = extension("x-kubernetes-list-map-keys");
        assert_eq!(*keys, json!({"yaml": "[\"port\",\"protocol\"]\n"}));

        let path = "/api/v1/namespaces/{namespace}/services/{name}";
        let patch = &named(&decoded["paths"]["path"], path)["patch"];
        assert_eq!(patch["consumes"].as_array().unwrap().len(), 4);
        assert_eq!(
            patch["parameters"][2],
            json!({"parameter": {"non_body_parameter": {"query_parameter_sub_schema":
                {"in": "query", "name": "fieldValidation", "type": "string", "unique_items": true}}}})
        );
        assert_eq!(
            patch["responses"]["response_code"],
            json!([{"name": "200", "value": {"response": {"description": "OK"}}}])
        );
        assert_eq!(
            *named(
                &patch["vendor_extension"],
                "x-kubernetes-group-version-kind"
            ),
            json!({"yaml": "{\"group\":\"\",\"version\":\"v1\",\"kind\":\"Service\"}\n"})
        );
    }

    #[test]
    fn o4_every_keyword_of_a_custom_schema_is_written() {
        let schema = json!({
            "type": "object", "title": "t", "required": ["a", "b"],
            "externalDocs": {"description": "d", "url": "u"},
            "properties": {
                "a": {"type": "integer", "format": "int32", "minimum": 0, "maximum": 2.5, "exclusiveMaximum": true,
                      "multipleOf": 0.5, "default": 1, "example": {"x": null}},
                "b": {"type": "string", "pattern": "^a$", "minLength": 1, "maxLength": 300, "enum": ["a", "ä"]},
                "open": {"type": "object", "additionalProperties": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}},
                "closed": {"type": "object", "additionalProperties": false},
            },
            "unheard": 1,
        });
        let document = openapi_v2(&[(
            "example.com",
            "v1",
            vec![served("Custom", "customs", Some(schema))],
        )]);
        let decoded = decode("Document", &openapi_v2_protobuf(&document));
        let definitions = &decoded["definitions"]["additional_properties"];
        assert_eq!(
            *named(definitions, "com.example.v1.Custom"),
            json!({
                "type": {"value": ["object"]}, "title": "t", "required": ["a", "b"],
                "external_docs": {"description": "d", "url": "u"},
                "properties": {"additional_properties": [
                    {"name": "a", "value": {
                        "type": {"value": ["integer"]}, "format": "int32", "maximum": 2.5, "exclusive_maximum": true,
                        "multiple_of": 0.5, "default": {"yaml": "1\n"}, "example": {"yaml": "{\"x\":null}\n"}}},
                    {"name": "b", "value": {
                        "type": {"value": ["string"]}, "pattern": "^a$", "min_length": 1, "max_length": 300,
                        "enum": [{"yaml": "\"a\"\n"}, {"yaml": "\"ä\"\n"}]}},
                    {"name": "open", "value": {"type": {"value": ["object"]}, "additional_properties": {"schema": {
                        "type": {"value": ["array"]}, "unique_items": true,
                        "items": {"schema": [{"type": {"value": ["string"]}}]}}}}},
                    {"name": "closed", "value": {"type": {"value": ["object"]}, "additional_properties": {"boolean": false}}},
                ]},
            })
        );
    }
}
