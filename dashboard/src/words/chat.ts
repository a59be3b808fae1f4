/** What the page `chat` says. */
import type { ApiErrorObject } from "../lib/chat/types";
import { duration, rate } from "../lib/format";

const months = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];

export const chat = {
  // The list
  list: "Chats",
  showList: "Show the list of chats",
  new: "New chat",
  search: "Search chats",
  searchHint: "Words in titles and messages",
  none: "No chats yet",
  noneText: "Every conversation is kept on this device and can be read from all devices of the cluster.",
  noHits: "Nothing found",
  noHitsText: (query: string) => `No chat holds all the words of “${query}”.`,
  older: "Show older chats",
  untitled: "Untitled chat",
  today: "Today",
  yesterday: "Yesterday",
  week: "Last seven days",
  month: (date: Date) => `${months[date.getUTCMonth()] ?? ""} ${date.getUTCFullYear()}`,
  exportAll: "Export all chats",
  import: "Import chats",
  imported: (n: number) => (n === 1 ? "One chat was imported." : `${n} chats were imported.`),
  refused: (n: number, why: string) => `${n === 1 ? "One chat was" : `${n} chats were`} not imported: ${why}`,
  moreOfList: "More for all chats",

  // One chat
  more: "More for this chat",
  rename: "Rename",
  renameTitle: "Rename this chat",
  title: "Title",
  save: "Save",
  exportJson: "Export as JSON",
  exportMarkdown: "Export as Markdown",
  delete: "Delete",
  deleted: "deleted",
  undo: "Undo",
  isDeleted: "This chat was deleted on another device.",
  missing: "This chat is not here. It may have been deleted, or it has not reached this device yet.",
  settings: "Chat settings",
  keys: "Keyboard",

  // Models
  model: "Model",
  chooseModel: "Choose a model",
  noModel: "No model",
  noModels: "There is no model yet",
  noModelsText: "A chat needs a model. Small ones run on a single phone; larger ones share the work among several.",
  toModels: "Choose a model to download",
  moreModels: "More models",
  modelGone: "not on this cluster",
  states: {
    ready: "Ready",
    healing: "Recovering",
    loading: "Loading",
    fetching: "Fetching",
    placing: "Starting",
    stored: "Starts with the first message",
    failed: "Failed",
  },
  context: (n: number) => `reads ${n.toLocaleString("en-GB")} tokens`,
  demo: "For trying things out: it answers quickly, and nonsense.",
  onDevices: (names: string[]) => (names.length === 1 ? `on ${names[0] ?? ""}` : `on ${names.length} devices`),

  // The beginning
  hello: "Ask your own devices",
  helloText: "The model runs on your devices alone. Nothing that you write leaves them.",
  starters: [
    { title: "Explain something", text: "Explain why the sky is blue, in three short sentences." },
    { title: "Improve a text", text: "Make this sentence shorter and friendlier: “We regret to inform you that your request could not be processed at this time.”" },
    { title: "Find ideas", text: "Give me five ideas for a rainy Sunday with two children." },
    { title: "Write some code", text: "Write a Python function that counts the words of a text, with one example." },
  ],

  // The conversation
  conversation: "Conversation",
  youSaid: "You asked",
  answeredBy: "Answer by",
  sent: "Waiting for the first word…",
  queued: (n: number) => (n === 1 ? "One request is before this one" : `${n} requests are before this one`),
  healing: "A device was lost. The others take over its part, then the answer goes on.",
  waiting: "Waiting",
  away: "The device that writes this answer cannot be reached. What is missing comes as soon as it is back.",
  elsewhere: (name: string) => `${name} is writing this answer. What has come so far:`,
  healed: (n: number, ms: number) => `Recovered${n === 1 ? "" : ` ${n} times`} in ${duration(ms)}`,
  healedWhy: "A device was lost while this was written. The others took over, and nothing is missing.",
  stopped: "Stopped",
  interrupted: "Broken off",
  interruptedText: "The device that wrote this answer ended. What stands here is not all of it.",
  failed: "This answer is not complete.",
  tooLong: "The answer was cut: it reached the limit of its length.",
  unheard: "The question is kept, but this device could not be asked for an answer.",
  notKept: "The message could not be sent. It is still in the box below.",
  empty: "The model answered with nothing.",
  noAnswer: "There is no answer to this yet.",
  ask: "Ask for an answer",
  openSettings: "Open the chat settings",
  tokens: (n: number) => `${n.toLocaleString("en-GB")} ${n === 1 ? "token" : "tokens"}`,
  rate: (n: number) => `${rate(n)} tokens/s`,
  details: "About this answer",
  computedBy: (names: string[]) =>
    names.length === 1 ? `computed by ${names[0] ?? ""}` : `computed by ${names.length} devices`,
  layers: (range: string) => `layers ${range}`,
  cached: (n: number) => `${n.toLocaleString("en-GB")} of them known from before`,
  factLength: "Answer",
  factSpeed: "Speed",
  factFirst: "First word",
  factRead: "Read before",
  factHealed: "Lost devices",
  factDevices: "Computed by",
  after_: (ms: number) => `after ${duration(ms)}`,
  thinking: "Thinking…",
  thought: "Thought",
  thoughtFor: (ms: number) => (ms < 1000 ? "Thought for a moment" : `Thought for ${duration(ms)}`),
  thoughtAbout: (ms: number) => (ms < 1000 ? "Thought for a moment" : `Thought for about ${duration(ms)}`),
  copy: "Copy message",
  copied: "Copied",
  again: "Answer again",
  edit: "Edit",
  editLabel: "Your question, to be asked in another way",
  editHint: "The old question and its answers stay, one step to the left.",
  askAgain: "Ask",
  cancel: "Cancel",
  branch: (at: number, n: number) => `${at}/${n}`,
  branches: (at: number, n: number) => `Version ${at} of ${n}`,
  before: "Version before",
  after: "Version after",
  toEnd: "Go to the end",
  begins: "The answer begins.",
  isDone: "The answer is complete.",
  isStopped: "The answer was stopped.",
  isBroken: "The answer broke off.",

  // Markdown
  code: "Code",
  codeIn: (language: string) => (language === "" ? "Code" : `Code in ${language}`),
  copyCode: "Copy code",
  table: "Table",
  image: "Picture, as a link:",
  done: "done",
  open: "to do",

  // The box
  write: "Write a message",
  send: "Send",
  stopKey: "Stop (Escape)",
  attach: "Add text files",
  hint: "Enter sends, Shift+Enter begins a new line",
  drop: "Drop text files here",
  removeFile: (name: string) => `Remove ${name}`,
  file: (name: string) => `File ${name}`,
  pasted: "Pasted text",
  tooLarge: (name: string, limit: string) => `${name} is larger than ${limit}.`,
  notText: (name: string) => `${name} is not a text file.`,
  tooMany: (n: number) => `A message takes ${n} files at most.`,
  overContext: (n: string, context: string) => `This is about ${n} tokens. The model reads ${context} at once.`,

  // Settings
  system: "Instructions",
  systemHint: "Said to the model before everything else, in every question of this chat.",
  systemExample: "For example: Answer briefly, and say so when you do not know.",
  parameters: "How it answers",
  parametersText: "Leave a field empty for the usual value.",
  temperature: "Temperature",
  temperatureHint: "0 always takes the likeliest word; higher is more surprising. Usual: 1.",
  top_p: "Top p",
  top_pHint: "Above 0, at most 1: leaves out unlikely words. Usual: 1, all words.",
  max_tokens: "Longest answer, in tokens",
  max_tokensHint: "Usual: as long as the model can.",
  seed: "Seed",
  seedHint: "A whole number: the same question then has the same answer. Usual: another one each time.",
  stopStrings: "Stop at these texts",
  stopHint: "One in each line, 16 at most. The answer ends before the first one.",
  usual: "usual",
  wrongNumber: (from: string) => `Expected ${from}.`,
  range: {
    temperature: "a number from 0 to 100",
    top_p: "a number above 0 and at most 1",
    max_tokens: "a whole number from 1",
    seed: "a whole number",
    stop: "16 lines at most",
  },

  // Keyboard
  shortcuts: [
    { keys: ["Enter"], what: "Send the message (with a touch screen: begin a new line)" },
    { keys: ["Shift", "Enter"], what: "Begin a new line" },
    { keys: ["Esc"], what: "Stop the answer" },
    { keys: ["Alt", "N"], what: "Begin a new chat" },
    { keys: ["Ctrl", "K"], what: "Search chats" },
    { keys: ["/"], what: "Go to the message box" },
  ],

  /** An error of the API, for a reader: what only a reload or a larger model would change is said in other words. */
  failure: (error: ApiErrorObject): string => {
    if (error.code === "context_length_exceeded") return "The conversation is longer than this model can read. Begin a new chat, or shorten the question.";
    if (error.code === "overloaded") return "There is too much to do at the moment. Try again in a while.";
    // The node names the field as programs do.
    const label = { temperature: chat.temperature, top_p: chat.top_p, max_tokens: chat.max_tokens, seed: chat.seed, stop: chat.stopStrings }[
      error.param ?? ""
    ];
    const message = error.message.trim();
    const prefix = `${error.param ?? ""}: `;
    const text = label !== undefined && message.startsWith(prefix) ? `${label}: ${message.slice(prefix.length)}` : message;
    const begun = text.charAt(0).toUpperCase() + text.slice(1);
    return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
  },
};
