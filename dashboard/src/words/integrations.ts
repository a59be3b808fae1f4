/** What the page `integrations` says. */
import { duration } from "../lib/format";

export const integrations = {
  lead: "Programs that talk to OpenAI can talk to this cluster instead: they need its address and the name of a model.",
  setup: "For these",
  address: "Address",
  addressHere: (origin: string) => `${origin} (this page's own)`,
  model: "Model",
  tokenHint: "This node is open to the network and asks for its token. Set-ups with it are as secret as it is.",
  tokenUnknown: "This node asks for its token, which is shown only on the device itself. Put it in the place of YOUR_TOKEN.",
  tokenPlace: "YOUR_TOKEN",
  localOnly: "This address works on this device only. `shoal serve --lan` opens the node to the local network.",
  noModel: { title: "No model is served", text: "Start one first: set-ups name a model that answers.", action: "Choose a model" },

  test: {
    title: "Does it work?",
    text: "Sends a real, small question to the model from this page.",
    go: "Test it from here",
    question: "Say hello in one short sentence.",
    answer: "Answer",
    took: (ms: number, n: number) => `${n === 1 ? "1 token" : `${n} tokens`} in ${duration(ms)}`,
    empty: "The answer was empty.",
  },

  programs: "Programs",
  names: {
    curl: "curl",
    python: "OpenAI for Python",
    javascript: "OpenAI for JavaScript",
    webui: "Open WebUI",
    continue: "Continue",
    langchain: "LangChain",
    llm: "llm",
    others: "Other programs",
    claude: "Claude Code",
  },
  about: {
    curl: "The shortest way to try it. The answer comes as it is made, in OpenAI's events.",
    python: "OpenAI's own package. Any program that is built on it works like this.",
    javascript: "OpenAI's own package, for Node.js, Deno and Bun.",
    webui: "A chat in the browser for several people. Either start it like this, or enter address and key in its settings.",
    continue: "An assistant in VS Code and JetBrains. Chat and edit work; completing while you type does not, since it asks for an API that Shoal does not have yet.",
    langchain: "Chains and agents in Python. Calling tools is not supported yet.",
    llm: "Simon Willison's command line. The model is called `shoal` there.",
    others: "Jan, Chatbox, Cherry Studio, Zed and whatever speaks to LM Studio: choose “OpenAI compatible” there and enter these.",
    claude: "Claude Code speaks Anthropic's API, which Shoal does not have yet: it comes in a later version. Until then it cannot be used with this cluster.",
  },
  soon: "Not yet",
  limits: {
    title: "What does not work yet",
    list: ["Calling tools and functions", "Answers in a prescribed JSON schema", "Pictures in a question", "Embeddings and plain completions", "Anthropic's and Ollama's APIs"],
  },
};
