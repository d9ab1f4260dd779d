// The pages in a real browser, against a running server.
//
//   npm ci && RELEASE_SERVER_TOKEN=… node test.mjs http://localhost:8000
//
// The token must be allowed to write and to delete: a few packages and releases are published, and removed at the end. The URL may have
// a path prefix. CHROMIUM names the browser, `/usr/bin/chromium` if unset.
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const token = process.env.RELEASE_SERVER_TOKEN;
const url = process.argv[2];
if (!url || !token) {
  console.error("usage: RELEASE_SERVER_TOKEN=<token> node test.mjs <url of the server>");
  process.exit(2);
}
const base = url.replace(/\/*$/, "/");
const hostile = `<img src=x onerror=hacked=1>&amp;"' $(id) größe.zip`;
const names = ["browser-test-1.0.0.tar.gz", hostile, "browser-test-1.1.0.tar.gz"];
const phone = { viewport: { width: 390, height: 844 }, hasTouch: true };

// What no page may do, gathered over all of them.
const errors = [];
const violations = [];
const strangers = [];

let passed = 0;
let failed = 0;
async function check(name, body) {
  try {
    await body();
    passed += 1;
    console.log(`PASS ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}\n     ${String(error.message).trim().replaceAll("\n", "\n     ")}`);
  }
}

async function send(method, name, body) {
  const answer = await fetch(`${base}assets/${encodeURIComponent(name)}`, {
    method,
    headers: { Authorization: `Bearer ${token}` },
    body,
  });
  if (!answer.ok) throw new Error(`${method} of \`${name}\`: ${answer.status} ${await answer.text()}`);
}

async function api(method, path, body) {
  const answer = await fetch(path.startsWith("http") ? path : `${base}api/v3/repos/browser/test${path}`, {
    method,
    headers: { Authorization: `Bearer ${token}` },
    body,
  });
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${await answer.text()}`);
  return answer.status === 204 ? null : answer.json();
}

/** Publishes a release with two files. */
async function publish(tag, body) {
  const release = await api("POST", "/releases", JSON.stringify({ tag_name: tag, name: `Release ${hostile}`, body }));
  for (const name of ["app-1.tar.gz", "app-2.tar.gz"]) {
    await api("POST", release.upload_url.replace("{?name,label}", `?name=${name}`), name);
  }
  return release;
}

const notes = `# New
<script>hacked = 1</script><img src=x onerror=hacked=1> [a](javascript:hacked=1) ![p](https://elsewhere.example/p.png)

| ${"a long column | ".repeat(30)}
|${"---|".repeat(30)}
| ${"cell | ".repeat(30)}

\`\`\`
${"no end of a line ".repeat(30)}
\`\`\`
`;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});

/** Opens a page of the server in a fresh profile, and closes it after `body`. */
async function open(path, options, body) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(10_000);
  try {
    const page = await context.newPage();
    page.on("pageerror", (error) => errors.push(`${path}: ${error.message}`));
    page.on("console", (message) => {
      if (message.text().includes("Content Security Policy")) violations.push(`${path}: ${message.text()}`);
      else if (message.type() === "error") errors.push(`${path}: ${message.text()}`);
    });
    page.on("request", (request) => {
      const { protocol, origin } = new URL(request.url());
      if (origin !== new URL(base).origin && protocol !== "data:" && protocol !== "blob:") strangers.push(request.url());
    });
    const answer = await page.goto(base + path);
    assert.equal(answer.status(), 200, `GET ${path}`);
    return await body(page, answer);
  } finally {
    await context.close();
  }
}

const row = (page, name) => page.locator("tbody tr", { has: page.locator("bdi", { hasText: name }) });
const width = (page) => page.evaluate(() => document.documentElement.scrollWidth);

/** What Ctrl+V would give. */
async function clipboard(page) {
  await page.fill("#filter", "");
  await page.focus("#filter");
  await page.keyboard.press("Control+V");
  return page.inputValue("#filter");
}

/** The least contrast (WCAG 2) among the texts of the page. */
const contrast = (page) =>
  page.evaluate(() => {
    const parse = (color) => color.match(/[\d.]+/g).map(Number);
    const luminance = ([r, g, b]) => {
      const [x, y, z] = [r, g, b].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
      return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = (element) => {
      const [r, g, b, a = 1] = parse(getComputedStyle(element).backgroundColor);
      return a > 0 || !element.parentElement ? [r, g, b] : ground(element.parentElement);
    };
    let least = 21;
    for (const element of document.querySelectorAll("a, h1, small, .summary, th, td, .badge, code, summary, .note")) {
      const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(ground(element))];
      least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
    }
    return least;
  });

const uploaded = [];
const published = [];
try {
  const before = await (await fetch(`${base}packages?format=json`)).json().catch(() => null);
  if (before?.length === 0) {
    await check("an empty list tells how to upload", () =>
      open("packages", phone, async (page) => {
        assert.match(await page.locator(".empty code").first().textContent(), /^curl .*\/assets\/$/);
        assert.equal(await page.locator("table").count(), 0);
        assert.equal(await width(page), 390);
      }),
    );
  }

  for (const name of names) {
    await send("PUT", name, name);
    uploaded.push(name);
  }

  await check("a strict policy comes with every page", async () => {
    for (const path of ["packages", "docs"]) {
      await open(path, {}, async (_, answer) => {
        const policy = answer.headers()["content-security-policy"];
        assert.match(policy, /default-src 'none'/);
        assert.doesNotMatch(policy, /unsafe|\*|https?:/);
        assert.equal(answer.headers()["x-content-type-options"], "nosniff");
      });
    }
  });

  await check("the newest package is first and marked `latest`", () =>
    open("packages", {}, async (page) => {
      assert.equal(await page.locator("tbody tr").first().locator("bdi").textContent(), names.at(-1));
      assert.deepEqual(await page.locator(".badge").allTextContents(), ["latest"]);
      assert.equal(await page.locator("tbody tr").first().locator(".badge").count(), 1);
    }),
  );

  await check("the style sheet applies", () =>
    open("packages", {}, async (page) => {
      assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector("table")).borderCollapse), "collapse");
    }),
  );

  await check("a hostile name is text, and its link downloads it", () =>
    open("packages", {}, async (page) => {
      const link = row(page, hostile).locator("a");
      assert.equal(await link.textContent(), hostile);
      assert.equal(await page.locator("tbody img, tbody script").count(), 0);
      assert.equal(await page.evaluate(() => typeof globalThis.hacked), "undefined");
      const answer = await fetch(await link.getAttribute("href"));
      assert.equal(answer.status, 200);
    }),
  );

  await check("the filter narrows the list, counts, and gives it back", () =>
    open("packages", {}, async (page) => {
      const all = await page.locator("tbody tr").count();
      const summary = await page.textContent("#count");
      await page.fill("#filter", "BROWSER-test 1.1");
      assert.deepEqual(await page.locator("tbody tr:visible bdi").allTextContents(), ["browser-test-1.1.0.tar.gz"]);
      assert.equal(await page.textContent("#count"), `1 of ${summary}`);
      await page.fill("#filter", "no such package");
      assert.equal(await page.locator("tbody tr:visible").count(), 0);
      await page.click("#clear");
      assert.equal(await page.locator("tbody tr:visible").count(), all);
      assert.equal(await page.textContent("#count"), summary);
    }),
  );

  for (const [how, script] of [
    ["the clipboard", ""],
    ["no clipboard, as over plain HTTP", "Object.defineProperty(navigator, 'clipboard', { value: undefined })"],
  ]) {
    await check(`the copy buttons copy all of it, and say so (${how})`, () =>
      open("packages", {}, async (page) => {
        await page.addInitScript(script);
        await page.reload();
        const command = row(page, names[0]).locator(".command");
        await command.getByRole("button").click();
        await page.getByText(`Copied the command for ${names[0]}`).waitFor({ state: "attached" });
        assert.equal(await clipboard(page), await command.locator("code").textContent());
        assert.match(await clipboard(page), /^curl .*browser-test-1\.0\.0\.tar\.gz$/);
        await page.fill("#filter", "");
        const digest = row(page, names[0]).locator(".digest");
        await digest.getByRole("button").click();
        await page.getByText(`Copied the SHA-256 of ${names[0]}`).waitFor({ state: "attached" });
        assert.match(await clipboard(page), /^[0-9a-f]{64}$/);
      }),
    );
  }

  await check("the keyboard reaches everything, and one sees where it is", () =>
    open("packages", {}, async (page) => {
      const reached = [];
      for (let i = 0; i < 12; i += 1) {
        await page.keyboard.press("Tab");
        const [what, outline] = await page.evaluate(() => {
          const { activeElement: element } = document;
          return [element.id || element.getAttribute("aria-label") || element.textContent, getComputedStyle(element).outlineStyle];
        });
        reached.push(what);
        assert.notEqual(outline, "none", `no visible focus on \`${what}\``);
        if (what === `Copy the command for ${names.at(-1)}`) break;
      }
      for (const what of ["filter", names.at(-1), `Copy the SHA-256 of ${names.at(-1)}`]) assert(reached.includes(what), what);
      await page.keyboard.press("Enter");
      await page.getByText(`Copied the command for ${names.at(-1)}`).waitFor({ state: "attached" });
    }),
  );

  await check("nothing overflows on a phone", async () => {
    for (const path of ["packages", "docs"]) {
      await open(path, phone, async (page) => {
        if (path === "docs") await page.locator(".opblock").first().waitFor();
        assert.equal(await width(page), 390, path);
      });
    }
  });

  await check("on a phone it is still a table to a screen reader", () =>
    open("packages", phone, async (page) => {
      assert.equal(await page.getByRole("rowheader", { name: names[0] }).count(), 1);
      assert.equal(await page.getByRole("columnheader", { name: "SHA-256" }).count(), 1);
      assert.equal(await page.getByRole("table", { name: "Packages, newest first" }).count(), 1);
    }),
  );

  await check("texts stand out in light and dark", async () => {
    const grounds = new Set();
    for (const colorScheme of ["light", "dark"]) {
      await open("packages", { colorScheme }, async (page) => {
        assert((await contrast(page)) >= 4.5, `${colorScheme}: ${await contrast(page)}`);
        grounds.add(await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor));
      });
    }
    assert.equal(grounds.size, 2);
  });

  await check("without JavaScript the list and its commands are there, and nothing that is dead", () =>
    open("packages", { javaScriptEnabled: false }, async (page) => {
      assert(await row(page, names[0]).locator("a").isVisible());
      assert(await row(page, names[0]).locator(".command code").isVisible());
      assert(!(await page.locator("#filter").isVisible()));
      assert.equal(await page.getByRole("button").count(), 0);
    }),
  );

  await check("the links of the header work", () =>
    open("packages", {}, async (page) => {
      for (const link of await page.locator("header a").all()) {
        const target = await link.evaluate((element) => element.href);
        assert(target.startsWith(base), `${target} is not below ${base}`);
        assert.equal((await fetch(target)).status, 200, target);
      }
    }),
  );

  for (const tag of ["browser/1.0", "browser/1.1"]) published.push(await publish(tag, notes));
  const releases = "browser/test/releases";
  const pages = [releases, `${releases}/tag/browser/1.1`, `${releases}/tag/browser%2F1.1`];

  await check("releases have pages, whose notes run and load nothing", async () => {
    for (const path of pages) {
      await open(path, {}, async (page, answer) => {
        assert.doesNotMatch(answer.headers()["content-security-policy"], /unsafe|\*|https?:/);
        assert.equal(await page.locator("main img, main script").count(), 0);
        assert.equal(await page.evaluate(() => typeof globalThis.hacked), "undefined");
        assert.equal(await page.locator(".release bdi").first().textContent(), `Release ${hostile}`);
        assert.deepEqual(await page.locator(".badge").allTextContents(), ["latest"]);
        assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector("table[role]")).borderCollapse), "collapse");
        for (const link of await page.locator("header a, .release a:not(.notes a)").all()) {
          const target = await link.evaluate((element) => element.href);
          assert(target.startsWith(base), `${target} is not below ${base}`);
          assert.equal((await fetch(target)).status, 200, target);
        }
      });
    }
  });

  await check("what is copied from a release says so, by keyboard too", () =>
    open(pages[1], {}, async (page) => {
      const button = page.getByRole("button", { name: "Copy the command for app-2.tar.gz" });
      await button.focus();
      await page.keyboard.press("Enter");
      await page.getByText("Copied the command for app-2.tar.gz").waitFor({ state: "attached" });
      assert.equal(await page.getByRole("button", { name: "Copy the command that checks" }).count(), 1);
    }),
  );

  await check("pages of releases fit a phone, stand out in light and dark, and need no JavaScript", async () => {
    for (const path of pages) {
      await open(path, phone, async (page) => assert.equal(await width(page), 390, path));
      for (const colorScheme of ["light", "dark"]) {
        await open(path, { colorScheme }, async (page) => assert((await contrast(page)) >= 4.5, `${path}, ${colorScheme}`));
      }
      await open(path, { javaScriptEnabled: false }, async (page) => {
        assert(await page.locator(".command code").first().isVisible());
        assert.equal(await page.getByRole("button").count(), 0);
      });
    }
    await open(releases, { javaScriptEnabled: false }, async (page) => {
      const older = page.locator(".release").nth(1);
      assert(!(await older.locator("table[role]").isVisible()));
      await older.locator("summary").click();
      assert(await older.locator("table[role]").isVisible());
    });
  });

  const { paths } = await (await fetch(`${base}openapi.json`)).json();
  await check("/docs shows every operation", () =>
    open("docs", {}, async (page) => {
      await page.locator(".opblock").first().waitFor();
      const shown = new Set();
      for (const block of await page.locator(".opblock").all()) {
        const method = (await block.locator(".opblock-summary-method").textContent()).toLowerCase();
        shown.add(`${method} ${await block.locator(".opblock-summary-path").getAttribute("data-path")}`);
      }
      const methods = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
      const expected = Object.entries(paths).flatMap(([path, item]) =>
        methods.filter((method) => method in item).map((method) => `${method} ${path}`),
      );
      assert.deepEqual([...shown].sort(), expected.sort());
    }),
  );

  await check("/docs can try an operation out, below the prefix", () =>
    open("docs", { colorScheme: "dark" }, async (page) => {
      const block = page.locator(".opblock-get", { has: page.locator("[data-path='/latest']") }).first();
      await block.locator(".opblock-summary-control").click();
      await block.getByRole("button", { name: "Try it out" }).click();
      const answer = page.waitForResponse((response) => response.url().endsWith("/latest"));
      await block.getByRole("button", { name: "Execute" }).click();
      assert.equal((await answer).url(), `${base}latest`);
      assert.equal((await answer).status(), 200);
      await block.locator(".live-responses-table .response-col_status").first().waitFor();
    }),
  );
} catch (error) {
  failed += 1;
  console.log(`FAIL the test itself: ${error.stack}`);
} finally {
  for (const { url } of published) {
    await api("DELETE", url).catch((error) => console.error(error.message));
  }
  for (const name of uploaded) {
    await send("DELETE", name).catch((error) => console.error(error.message));
  }
  await browser.close();
}

await check("no JavaScript error on any page", () => assert.deepEqual(errors, []));
await check("no violation of the policy on any page", () => assert.deepEqual(violations, []));
await check("no request to another host", () => assert.deepEqual(strangers, []));

console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
