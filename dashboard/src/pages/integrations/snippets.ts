/** Set-ups for other programs, filled in: what a reader copies is what works. Nothing is offered that the node cannot do. */

/** What a set-up has to name. */
export interface Setup {
  /** The node's address, without a slash at its end. */
  origin: string;
  /** A model that is served. */
  model: string;
  /** The token of a node that is open to the network; `null` where none is asked for. */
  token: string | null;
  /** Positions of a sequence. */
  context: number;
}

export interface Snippet {
  /** What it is: a file's name, or where it is typed. */
  title: string;
  text: string;
}

export type Program = "curl" | "python" | "javascript" | "webui" | "continue" | "langchain" | "llm" | "others" | "claude";
export const PROGRAMS: Program[] = ["curl", "python", "javascript", "webui", "continue", "langchain", "llm", "others", "claude"];

/** Clients insist on a key; a node without a token ignores it. */
const NO_KEY = "none";

export function keyOf(setup: Setup): string {
  return setup.token ?? NO_KEY;
}

/** In single quotes for a POSIX shell. */
export function shell(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** In double quotes, for JSON, YAML, Python and JavaScript alike; marks that turn the writing direction are spelt out. */
export function quoted(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

const QUESTION = "Say hello in one sentence.";

function curl(setup: Setup): Snippet[] {
  const key = setup.token === null ? "" : ` \\\n  -H ${shell(`Authorization: Bearer ${setup.token}`)}`;
  const body = `{"model": ${quoted(setup.model)}, "messages": [{"role": "user", "content": ${quoted(QUESTION)}}], "stream": true}`;
  return [
    { title: "Terminal", text: `curl -N ${setup.origin}/v1/chat/completions${key} \\\n  -H 'Content-Type: application/json' \\\n  -d ${shell(body)}` },
    { title: "Which models are served", text: `curl ${setup.origin}/v1/models${key}` },
  ];
}

function python(setup: Setup): Snippet[] {
  const text = `from openai import OpenAI

client = OpenAI(base_url=${quoted(`${setup.origin}/v1`)}, api_key=${quoted(keyOf(setup))})
stream = client.chat.completions.create(
    model=${quoted(setup.model)},
    messages=[{"role": "user", "content": ${quoted(QUESTION)}}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)`;
  return [
    { title: "Terminal", text: "pip install openai" },
    { title: "hello.py", text },
  ];
}

function javascript(setup: Setup): Snippet[] {
  const text = `import OpenAI from "openai";

const client = new OpenAI({ baseURL: ${quoted(`${setup.origin}/v1`)}, apiKey: ${quoted(keyOf(setup))} });
const stream = await client.chat.completions.create({
  model: ${quoted(setup.model)},
  messages: [{ role: "user", content: ${quoted(QUESTION)} }],
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}`;
  return [
    { title: "Terminal", text: "npm install openai" },
    { title: "hello.mjs", text },
  ];
}

function webui(setup: Setup): Snippet[] {
  return [
    {
      title: "Terminal",
      text: `pip install open-webui\nENABLE_OLLAMA_API=false \\\nOPENAI_API_BASE_URL=${shell(`${setup.origin}/v1`)} \\\nOPENAI_API_KEY=${shell(keyOf(setup))} \\\nopen-webui serve`,
    },
    { title: "Settings, Connections: URL", text: `${setup.origin}/v1` },
    { title: "Settings, Connections: key", text: keyOf(setup) },
  ];
}

function continues(setup: Setup): Snippet[] {
  const text = `name: Shoal
version: 1.0.0
schema: v1
models:
  - name: Shoal
    provider: openai
    model: ${quoted(setup.model)}
    apiBase: ${quoted(`${setup.origin}/v1`)}
    apiKey: ${quoted(keyOf(setup))}
    roles: [chat, edit]
    defaultCompletionOptions:
      contextLength: ${setup.context}`;
  return [{ title: "~/.continue/config.yaml", text }];
}

function langchain(setup: Setup): Snippet[] {
  const text = `from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    base_url=${quoted(`${setup.origin}/v1`)},
    api_key=${quoted(keyOf(setup))},
    model=${quoted(setup.model)},
)
print(model.invoke(${quoted(QUESTION)}).content)`;
  return [
    { title: "Terminal", text: "pip install langchain-openai" },
    { title: "hello.py", text },
  ];
}

function llm(setup: Setup): Snippet[] {
  const key = setup.token === null ? "" : "\n  api_key_name: shoal";
  const set = setup.token === null ? "" : `llm keys set shoal --value ${shell(setup.token)}\n`;
  return [
    { title: "extra-openai-models.yaml", text: `- model_id: shoal\n  model_name: ${quoted(setup.model)}\n  api_base: ${quoted(`${setup.origin}/v1`)}${key}` },
    { title: "Where that file belongs", text: `dirname "$(llm logs path)"` },
    { title: "Terminal", text: `${set}llm -m shoal ${shell(QUESTION)}` },
  ];
}

function others(setup: Setup): Snippet[] {
  return [
    { title: "Base URL", text: `${setup.origin}/v1` },
    { title: "API key", text: keyOf(setup) },
    { title: "Model", text: setup.model },
  ];
}

/** What to copy for a program; nothing where the node cannot serve it yet. */
export function snippets(program: Program, setup: Setup): Snippet[] {
  const all: Record<Program, (setup: Setup) => Snippet[]> = {
    curl,
    python,
    javascript,
    webui,
    continue: continues,
    langchain,
    llm,
    others,
    claude: () => [],
  };
  return all[program](setup);
}

/** Addresses by which this node can be reached, the page's own first, without slashes at their ends. */
export function origins(own: string, lan: string[]): string[] {
  return [...new Set([own, ...lan].map((it) => it.replace(/\/+$/, "")))];
}
