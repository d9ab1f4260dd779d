// The calls that the action softprops/action-gh-release makes, through the same library: an operation a run.

import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { basename, join } from "node:path";
import { Octokit } from "@octokit/rest";

const asked = JSON.parse(readFileSync(0, "utf8"));
const octokit = new Octokit({ baseUrl: process.env.API, auth: process.env.TOKEN });
const [owner, repo] = process.env.REPOSITORY.split("/");
const { repos } = octokit.rest;

// Drafts are in no lookup by tag.
async function find() {
  for await (const { data } of octokit.paginate.iterator(repos.listReleases, { owner, repo, per_page: 100 })) {
    const found = data.find((release) => release.tag_name === asked.tag);
    if (found) return found;
  }
  return undefined;
}

// As a stream, with the type that its name has.
async function upload(release, path) {
  const name = basename(path);
  const known = release.assets.find((asset) => asset.name === name);
  if (known) await repos.deleteReleaseAsset({ owner, repo, asset_id: known.id });
  const url = new URL(release.upload_url.split("{")[0]);
  url.searchParams.append("name", name);
  const file = await open(path);
  try {
    const { status, data } = await octokit.request({
      method: "POST",
      url: url.toString(),
      headers: {
        "content-length": `${statSync(path).size}`,
        "content-type": name.endsWith(".json") ? "application/json" : "application/octet-stream",
        authorization: `token ${process.env.TOKEN}`,
      },
      data: file.readableWebStream({ type: "bytes" }),
    });
    assert.deepEqual([status, data.name, data.size], [201, name, statSync(path).size]);
    return data;
  } finally {
    await file.close();
  }
}

// All of its fields each time, as it has them from the release it found.
const update = (release, fields) =>
  repos.updateRelease({
    owner, repo, release_id: release.id, tag_name: asked.tag, target_commitish: release.target_commitish,
    name: release.name, body: release.body, draft: release.draft, prerelease: release.prerelease,
    discussion_category_name: undefined, generate_release_notes: undefined, make_latest: undefined, ...fields,
  });

const operations = {
  async draft() {
    assert.equal(await find(), undefined);
    await assert.rejects(repos.getReleaseByTag({ owner, repo, tag: asked.tag }), { status: 404 });
    const { data } = await repos.createRelease({
      owner, repo, tag_name: asked.tag, name: asked.title, body: asked.notes, draft: true, prerelease: undefined,
      target_commitish: undefined, generate_release_notes: false, make_latest: undefined,
    });
    assert.equal((await find()).id, data.id);
  },
  async upload() {
    const release = await find();
    await Promise.all(asked.paths.map((path) => upload(release, path)));
  },
  async publish() {
    assert.equal((await update(await find(), { draft: false })).data.draft, false);
  },
  async list() {
    assert.equal((await find()).tag_name, asked.tag);
  },
  async view() {
    const { data } = await repos.getReleaseByTag({ owner, repo, tag: asked.tag });
    assert.deepEqual([data.name, data.body, data.assets.length], [asked.title, asked.notes, asked.paths.length]);
  },
  async replace() {
    const asset = await upload(await find(), asked.other);
    const bytes = await (await fetch(asset.browser_download_url)).arrayBuffer();
    writeFileSync(join(asked.folder, asset.name), Buffer.from(bytes));
  },
  async edit() {
    assert.equal((await update(await find(), { body: asked.edited })).data.body, asked.edited);
    assert.equal((await repos.getReleaseByTag({ owner, repo, tag: asked.tag })).data.body, asked.edited);
  },
};

await operations[process.argv[2]]();
