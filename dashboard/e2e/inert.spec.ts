/** Names, prompts, output, files' names and event texts full of what a careless page would run or obey: they are text. */
import { expect, test } from "./fleet";

/** What would be seen if any of it were taken for markup or code. */
const NASTY = [
  "<img src=x onerror=\"document.title='run'\">",
  "<script>document.title='run'</script>",
  "[press](javascript:document.title='run')",
  "![picture](http://127.0.0.1:1/asked.png)",
  "<a href=\"javascript:document.title='run'\" onmouseover=\"document.title='run'\">x</a>",
  "<svg onload=\"document.title='run'\"><style>*{display:none}</style></svg>",
  "$\\href{javascript:document.title='run'}{x}$ and \\(\\class{frame}{y}\\)",
  "\u202egnihton ton si siht\u202c",
].join("\n\n");

test("hostile text stays text on every page", async ({ fleet, page }) => {
  const name = "<b onclick=x>phone\u202e</b>";
  const node = await fleet.node(name);
  const asked: string[] = [];
  const said: string[] = [];
  page.on("request", (request) => {
    if (!request.url().startsWith(node.url)) asked.push(request.url());
  });
  page.on("console", (message) => {
    if (message.text().includes("Content Security Policy")) said.push(message.text());
  });

  // A chat as another device might have left it on the node.
  const chat = await node.post<{ id: string }>("/chats", { title: NASTY.slice(0, 200), model: "demo", system: NASTY });
  const question = { parent: null, role: "user", text: NASTY };
  const { id: parent } = await node.post<{ id: string }>(`/chats/${chat.id}/messages`, question);
  const answer = { parent, role: "assistant", text: `<think>${NASTY}</think>\n\n${NASTY}\n\n\`\`\`html\n${NASTY}\n\`\`\``, meta: { model: NASTY } };
  await node.post(`/chats/${chat.id}/messages`, answer);

  for (const place of ["home", `chat/${chat.id}`, "chat", "models", "activity", "doctor", "integrations", "settings"]) {
    await page.goto(`${node.url}/#/${place}`);
    await expect(page.getByRole("heading", { level: 1 })).toHaveCount(1);
    if (place.startsWith("chat/")) {
      await expect(page.getByText("gnihton ton si siht").first()).toBeVisible();
      // Whatever the reader presses.
      for (const link of await page.getByRole("main").getByRole("link").all()) {
        expect(await link.getAttribute("href")).not.toMatch(/^\s*javascript:/i);
      }
    }
    const foreign = await page.evaluate(() => document.querySelectorAll("main :is(script, iframe, object, embed, img[src^=http], [onerror], [onload], [onclick])").length);
    expect(foreign, place).toBe(0);
    expect(await page.title(), place).not.toBe("run");
  }
  expect(asked, "the page asked somebody else").toEqual([]);
  expect(said, "the policy had to stop something").toEqual([]);
});
