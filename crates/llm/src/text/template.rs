//! Chat templates: programs in Jinja, which come with a model and are not trusted.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, Error, ErrorKind};
use serde_json::Value;

use super::CallSyntax;

/// Most bytes of a template's source, and of what it may write.
const MAX_SOURCE: usize = 1 << 20;
const MAX_TEXT: usize = super::MAX_TEXT;

/// Steps that a template may take: many times what long conversations need.
const FUEL: u64 = 20_000_000;

const NAME: &str = "chat";

/// Why a template cannot be used, or refuses a conversation.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is too long, or no Jinja.
    #[error("the chat template is malformed: {0}")]
    Source(String),
    /// It fails on these messages.
    #[error("the chat template refuses these messages: {0}")]
    Refused(String),
}

/// A chat template.
#[derive(Debug, Clone)]
pub struct Template {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    calls: Option<CallSyntax>,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// If the source is too long, or no Jinja.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE {
            let what = format!("it has {} bytes", source.len());
            return Err(TemplateError::Source(what));
        }
        let mut environment = Environment::new();
        // As the templates of models are written for.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        environment.set_syntax(syntax.map_err(|e| TemplateError::Source(format!("{e:#}")))?);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise);
        let calls = CallSyntax::of(source);
        // Marks of which parts a model is trained on, without a meaning here.
        let source = ["{% generation %}", "{% endgeneration %}"]
            .iter()
            .fold(source.to_owned(), |source, mark| source.replace(mark, ""));
        environment
            .add_template_owned(NAME, source)
            .map_err(|e| TemplateError::Source(format!("{e:#}")))?;
        Ok(Template {
            environment,
            bos: bos.unwrap_or_default().to_owned(),
            eos: eos.unwrap_or_default().to_owned(),
            calls,
        })
    }

    /// How the model writes calls of tools, if its template knows tools.
    #[must_use]
    pub fn calls(&self) -> Option<CallSyntax> {
        self.calls
    }

    /// The text of a conversation, up to where the assistant's answer begins.
    ///
    /// # Errors
    /// If the template fails on it, or writes too much.
    pub fn render(&self, messages: &Value, tools: Option<&Value>) -> Result<String, TemplateError> {
        let refused = |e: Error| TemplateError::Refused(format!("{e:#}"));
        let template = self.environment.get_template(NAME).map_err(refused)?;
        let mut values = serde_json::Map::new();
        values.insert("messages".to_owned(), messages.clone());
        values.insert("add_generation_prompt".to_owned(), Value::Bool(true));
        values.insert("bos_token".to_owned(), Value::String(self.bos.clone()));
        values.insert("eos_token".to_owned(), Value::String(self.eos.clone()));
        if let Some(tools) = tools {
            values.insert("tools".to_owned(), tools.clone());
        }
        let mut text = Bounded(Vec::new());
        template
            .render_captured_to(Serde(values), &mut text)
            .map_err(refused)?;
        String::from_utf8(text.0).map_err(|e| TemplateError::Refused(e.to_string()))
    }
}

/// Text that is refused beyond a length.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_TEXT {
            let what = format!("it writes more than {MAX_TEXT} bytes");
            return Err(std::io::Error::other(what));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// JSON as Python writes it: the characters of HTML as they are, blanks after colons and commas.
fn to_json(value: minijinja::Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let wrong = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let json = serde_json::to_value(&value).map_err(wrong)?;
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let blanks = " ".repeat(width.min(16));
            let format = serde_json::ser::PrettyFormatter::with_indent(blanks.as_bytes());
            let mut writer = serde_json::Serializer::with_formatter(&mut out, format);
            serde::Serialize::serialize(&json, &mut writer).map_err(wrong)?;
        }
        None => {
            let mut writer = serde_json::Serializer::with_formatter(&mut out, Spaced);
            serde::Serialize::serialize(&json, &mut writer).map_err(wrong)?;
        }
    }
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: std::io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

fn raise(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(source: &str, messages: &Value) -> Result<String, TemplateError> {
        Template::new(source, Some("<s>"), Some("</s>"))?.render(messages, None)
    }

    #[test]
    fn what_templates_of_models_use_is_there() {
        let source = "{{ bos_token }}{%- for m in messages %}\n    {% if m['role'] == 'system' %}\n\
             {{ m.content.strip() | upper }}\n    {% elif loop.last and m.content.startswith('hi') %}\n\
             [{{ m['content'].split(' ')[-1] }}]\n    {% else %}{% continue %}{% endif %}\n\
             {% endfor %}{% if add_generation_prompt %}{% generation %}A:{% endgeneration %}{% endif %}";
        let messages = json!([
            {"role": "system", "content": " be kind "},
            {"role": "user", "content": "no"},
            {"role": "user", "content": "hi there"},
        ]);
        assert_eq!(
            render(source, &messages).unwrap(),
            "<s>BE KIND\n[there]\nA:"
        );
    }

    #[test]
    fn json_is_written_as_python_does() {
        let messages = json!([{"b": [1, 2.5, null], "a": "<ä>'"}]);
        assert_eq!(
            render("{{ messages[0] | tojson }}", &messages).unwrap(),
            r#"{"b": [1, 2.5, null], "a": "<ä>'"}"#
        );
        assert_eq!(
            render("{{ messages[0].b | tojson(indent=2) }}", &messages).unwrap(),
            "[\n  1,\n  2.5,\n  null\n]"
        );
    }

    #[test]
    fn tools_and_calls_reach_the_template_in_their_order() {
        // What templates of models that call tools make use of.
        let source = r#"{%- set ns = namespace(last=-1, many=false) %}
            {%- for m in messages[::-1] %}
                {%- set index = (messages | length - 1) - loop.index0 %}
                {%- if ns.last < 0 and m.role == "user" and m.content is string and not (m.content.startswith('<r>') and m.content.endswith('</r>')) %}
                    {%- set ns.last = index %}
                {%- endif %}
            {%- endfor %}
            {%- if tools is defined and tools is not none %}
                {%- for tool in tools %}{{ "
" }}{{ tool | tojson }}{% endfor %}
            {%- endif %}
            {%- for m in messages[ns.last:] %}
                {%- if m.tool_calls is defined and m.tool_calls %}
                    {%- for call in m.tool_calls %}
                        {%- set f = call.function if call.function else call %}
                        {{- '
{"name": "' + f.name + '", "arguments": ' ~ (f.arguments | tojson) ~ '}' }}
                        {%- for key, value in f.arguments.items() %}{{ '
' ~ key ~ '=' ~ value }}{% endfor %}
                        {%- for key, value in f.arguments | items %}{{ ';' ~ key }}{% endfor %}
                    {%- endfor %}
                {%- else %}
                    {%- set content = (m.content or '').split('</think>')[-1].lstrip('
') %}
                    {{- '
' ~ m['role'] | upper ~ ': ' ~ content | trim }}
                {%- endif %}
            {%- endfor %}
            {%- if strftime_now is defined %}{{ strftime_now("%d") }}{% endif %}
            {%- if enable_thinking is defined and enable_thinking is false %}no{% endif %}"#;
        let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": {"z": 1, "a": "x"}}});
        let messages = json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": "first"},
            {"role": "user", "content": "second"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "content": "<think>…</think>\n\n3 ", "tool_call_id": "1"},
        ]);
        let tools = json!([{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]);
        let template = Template::new(source, None, None).unwrap();
        assert_eq!(
            template.render(&messages, Some(&tools)).unwrap(),
            "\n{\"type\": \"function\", \"function\": {\"name\": \"f\", \"description\": \"d\", \"parameters\": {}}}\
             \nUSER: second\n{\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": \"x\"}}\nz=1\na=x;z;a\nTOOL: 3"
        );
    }

    #[test]
    fn a_template_can_refuse_but_not_run_away() {
        let refusal = render("{{ raise_exception('roles must alternate') }}", &json!([]));
        assert!(
            refusal
                .unwrap_err()
                .to_string()
                .contains("roles must alternate")
        );
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(matches!(
            render(endless, &json!([])),
            Err(TemplateError::Refused(_))
        ));
        let source = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(matches!(
            render(source, &json!([])),
            Err(TemplateError::Refused(_))
        ));
        assert!(matches!(
            render("{% if %}", &json!([])),
            Err(TemplateError::Source(_))
        ));
    }
}
