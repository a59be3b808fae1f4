/** A node that was opened to the local network, as a phone meets it that has no token. */
import { hostname } from "node:os";

import { expect, test, type Node } from "./fleet";

/** The node by this machine's name in the local network: whoever asks for that is a stranger to it. */
function byName(node: Node): string {
  const [label = ""] = hostname().split(".");
  return node.url.replace("127.0.0.1", `${label}.local`);
}

test("a wrong token stays outside and the right one opens", async ({ fleet, page, context }) => {
  const node = await fleet.node("kitchen", { args: ["--lan"] });
  const { token } = (await node.get<{ lan: { token: string } }>("/settings")).lan;
  await page.goto(byName(node));
  await expect(page.getByRole("heading", { level: 1 })).toHaveText("This device asks for its token");

  await page.getByLabel("Token").fill("not-the-token");
  await page.getByRole("button", { name: "Enter" }).click();
  await expect(page.getByRole("alert")).toHaveText("That is not the token of this device.");
  expect(await context.cookies()).toEqual([]);

  await page.getByLabel("Token").fill(` ${token} `);
  await page.getByRole("button", { name: "Enter" }).click();
  await expect(page.getByRole("navigation", { name: "Pages" })).toBeVisible();
  await expect(page.getByText("kitchen").first()).toBeVisible();
  const [cookie] = await context.cookies();
  expect(cookie).toMatchObject({ httpOnly: true, sameSite: "Strict" });
  // What was typed is nowhere that a page could show it.
  expect(page.url()).not.toContain(token);
});

test("the address with the token opens at once and keeps it from view", async ({ fleet, page }) => {
  const node = await fleet.node("kitchen", { args: ["--lan"] });
  const { token } = (await node.get<{ lan: { token: string } }>("/settings")).lan;
  await page.goto(`${byName(node)}/?token=${token}`);
  await expect(page.getByRole("navigation", { name: "Pages" })).toBeVisible();
  expect(page.url()).not.toContain(token);
});
