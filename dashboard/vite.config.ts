import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

/** Where `npm run dev` finds a node. */
const NODE = "http://127.0.0.1:52415";
/** What the node answers itself; everything else is the page. */
const ROUTES =
  "^/(v1|state|events|health|node_id|plan|place_instance|instance|invite|invites|join|leave|drain|nodes|doctor|models|download|downloads|metrics|traces|chats|settings|history|log)(/|\\?|$)";

export default defineConfig({
  base: "./",
  plugins: [svelte()],
  build: {
    // Android's WebView and Safari of 2022.
    target: ["chrome107", "safari16", "firefox104"],
    outDir: "dist",
    emptyOutDir: true,
    // The policy forbids scripts and styles in the page, and data: addresses for anything.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    rolldownOptions: {
      output: {
        // Fixed names: the node says by a hash of the contents whether a file has changed.
        entryFileNames: "[name].js",
        chunkFileNames: "[name].js",
        assetFileNames: "[name][extname]",
      },
    },
  },
  server: { host: "127.0.0.1", proxy: { [ROUTES]: NODE } },
  test: { include: ["src/**/*.test.ts"] },
});
