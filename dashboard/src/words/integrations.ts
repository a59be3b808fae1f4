/** What the page `integrations` says. */
export const integrations = {};
