/** Chatting: the first visit, an answer that outlives a reload, a device that dies in mid-answer. */
import type { Page } from "@playwright/test";

import { expect, test, type Node, type State } from "./fleet";

const QUESTION = "What is Shoal?";
/** An answer that has begun and is far from its end. */
const BEGUN = /\S+ \S+/;

interface Chat {
  id: string;
  messages: { role: string; text: string; meta: { state?: string; n_healed?: number } }[];
}

const answer = (page: Page) => page.locator("article.answer").last();
const text = (page: Page) => answer(page).locator(".markdown");

async function ask(page: Page, question: string): Promise<void> {
  await page.locator("#chat-message").fill(question);
  await page.getByRole("button", { name: "Send" }).click();
}

/** The last message of the newest chat, once it is complete, as the node has it. */
async function kept(node: Node): Promise<Chat["messages"][number]> {
  await expect
    .poll(async () => {
      const { chats } = await node.get<{ chats: { id: string }[] }>("/chats");
      const chat = await node.get<Chat>(`/chats/${chats[0]?.id ?? ""}`);
      return chat.messages.at(-1)?.meta.state;
    })
    .toBe("done");
  const { chats } = await node.get<{ chats: { id: string }[] }>("/chats");
  const chat = await node.get<Chat>(`/chats/${chats[0]?.id ?? ""}`);
  const last = chat.messages.at(-1);
  if (last === undefined) throw new Error("an empty chat");
  return last;
}

/** A chat that always gets the same answer, opened in the page. */
async function openExact(page: Page, node: Node): Promise<void> {
  const parameters = { temperature: 0 };
  const { id } = await node.post<{ id: string }>("/chats", { title: "Exact", model: "demo", parameters });
  await page.goto(`${node.url}/#/chat/${id}`);
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("Exact");
}

/** What the model answers when nothing disturbs it. */
async function undisturbed(node: Node): Promise<string> {
  const body = { model: "demo", temperature: 0, messages: [{ role: "user", content: QUESTION }] };
  const { choices } = await node.post<{ choices: { message: { content: string } }[] }>("/v1/chat/completions", body);
  return choices[0]?.message.content ?? "";
}

/** Places the demonstration model over two devices; returns the one that is not the first. */
async function spread(nodes: Node[]): Promise<Node> {
  const [first] = nodes as [Node];
  const { id } = await first.post<{ id: string }>("/place_instance", { model: "demo", nodes: 2 });
  const isReady = (state: State) => state.instances.some((it) => it.id === id && it.state === "ready");
  const state = await first.until("the model is ready", isReady);
  const self = state.nodes.find((it) => it.is_self)?.id;
  const stages = state.instances.find((it) => it.id === id)?.placement.map((it) => it.node) ?? [];
  const name = state.nodes.find((it) => stages.includes(it.id) && it.id !== self)?.name;
  const other = nodes.find((it) => it.name === name);
  if (other === undefined) throw new Error(`no second stage: ${JSON.stringify(state.instances)}`);
  return other;
}

test("a first visit leads to an answer that stays", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen");
  await page.goto(node.url);
  await page.getByRole("navigation", { name: "Pages" }).getByRole("link", { name: "Chat" }).click();
  await ask(page, QUESTION);
  await expect(answer(page)).toHaveAttribute("aria-busy", "false");
  const { text: said } = await kept(node);
  expect(said.trim()).not.toBe("");
  await expect(text(page)).toHaveText(said.trim());
  await expect(answer(page)).toContainText("tokens/s");
  await page.reload();
  await expect(text(page)).toHaveText(said.trim());
  await expect(page.locator("[role=log]")).toContainText(QUESTION);
});

test("a reload in mid-answer loses nothing of it", async ({ fleet, page }) => {
  const nodes = await fleet.cluster(["kitchen", "old-pixel"]);
  const [first] = nodes as [Node, Node];
  const other = await spread(nodes);
  const expected = await undisturbed(first);
  await openExact(page, first);
  await other.slowly(async () => {
    await ask(page, QUESTION);
    await expect(text(page)).toHaveText(BEGUN);
    await page.reload();
    await expect(answer(page)).toHaveAttribute("aria-busy", "true");
  });
  await expect(answer(page)).toHaveAttribute("aria-busy", "false");
  await expect(text(page)).toHaveText(expected.trim());
  expect((await kept(first)).text).toBe(expected);
});

test("a device that dies in mid-answer leaves a pause and a badge", async ({ fleet, page }) => {
  const nodes = await fleet.cluster(["kitchen", "old-pixel", "tablet"]);
  const [first] = nodes as [Node, Node, Node];
  const other = await spread(nodes);
  const expected = await undisturbed(first);
  await openExact(page, first);
  await other.slowly(async () => {
    await ask(page, QUESTION);
    await expect(text(page)).toHaveText(BEGUN);
    await other.kill();
  });
  await expect(answer(page)).toHaveAttribute("aria-busy", "false");
  await expect(answer(page).getByText(/^Recovered in /)).toBeVisible();
  await expect(text(page)).toHaveText(expected.trim());
  expect((await kept(first)).text).toBe(expected);
});

test("an answer that is stopped says so", async ({ fleet, page }) => {
  const nodes = await fleet.cluster(["kitchen", "old-pixel"]);
  const [first] = nodes as [Node, Node];
  const other = await spread(nodes);
  await openExact(page, first);
  await other.slowly(async () => {
    await ask(page, QUESTION);
    await expect(text(page)).toHaveText(BEGUN);
    await page.getByRole("button", { name: "Stop" }).click();
    await expect(answer(page).getByText("Stopped")).toBeVisible();
  });
  await expect(page.getByRole("button", { name: "Send" })).toBeVisible();
});
