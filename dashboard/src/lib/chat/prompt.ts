/** What is sent to the model: the shown branch, and only parameters that were set. */
import type { CompletionBody } from "./store";
import { withoutThoughts } from "./think";
import type { ChatHead, Message, Parameters } from "./types";

/** How long an answer goes on without anybody who reads it: the most that a node grants. */
const RESUME_S = 600;

/** The parameters that are set; the node refuses what it does not know, so nothing else of the chat's is sent. */
export function setParameters(parameters: Parameters): Parameters {
  const set: Parameters = {};
  const numbers = ["temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens", "seed"] as const;
  for (const name of numbers) {
    const value = parameters[name];
    if (typeof value === "number") set[name] = value;
  }
  if (Array.isArray(parameters.stop) && parameters.stop.length > 0) set.stop = parameters.stop;
  return set;
}

/** The request for an answer to the last message of `branch`. */
export function request(chat: Pick<ChatHead, "id" | "system" | "parameters">, model: string, branch: readonly Message[], answer: string): CompletionBody {
  const messages: CompletionBody["messages"] = [];
  if (chat.system.trim() !== "") messages.push({ role: "system", content: chat.system });
  for (const message of branch) {
    // Thoughts of before only cost room, and models are not trained to see them. An answer that never came says nothing.
    const content = message.role === "assistant" ? withoutThoughts(message.text) : message.text;
    if (message.role !== "assistant" || content !== "") messages.push({ role: message.role, content });
  }
  const parent = branch[branch.length - 1]?.id ?? "";
  return {
    ...setParameters(chat.parameters),
    model,
    messages,
    stream: true,
    stream_options: { include_usage: true },
    shoal: { status: true, resume_s: RESUME_S, chat: chat.id, message: answer, parent },
  };
}
