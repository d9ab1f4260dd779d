// @octokit/rest, an operation a run: its name is the argument, what it is about comes as JSON.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { Octokit } from "@octokit/rest";

const asked = JSON.parse(readFileSync(0, "utf8"));
const octokit = new Octokit({ baseUrl: process.env.API, auth: process.env.TOKEN });
const [owner, repo] = process.env.REPOSITORY.split("/");
const { repos } = octokit.rest;

const everything = () => octokit.paginate(repos.listReleases, { owner, repo, per_page: 1 });
const mine = async () => (await everything()).find((release) => release.tag_name === asked.tag);

const upload = (release, path) =>
  repos.uploadReleaseAsset({
    url: release.upload_url,
    owner,
    repo,
    release_id: release.id,
    name: basename(path),
    data: readFileSync(path),
    headers: { "content-type": "application/octet-stream", "content-length": readFileSync(path).length },
  });

async function fetchAll(release) {
  const assets = await octokit.paginate(repos.listReleaseAssets, { owner, repo, release_id: release.id, per_page: 2 });
  await Promise.all(assets.map((asset) => fetchOne(asset)));
}

async function fetchOne(asset) {
  const { data } = await octokit.request("GET /repos/{owner}/{repo}/releases/assets/{asset_id}", {
    owner,
    repo,
    asset_id: asset.id,
    headers: { accept: "application/octet-stream" },
    // Else it takes JSON and text for what they are.
    request: { parseSuccessResponseBody: false },
  });
  writeFileSync(join(asked.folder, asset.name), Buffer.from(await new Response(data).arrayBuffer()));
}

const asset = async (name) => (await mine()).assets.find((asset) => asset.name === name);

const operations = {
  async draft() {
    const { data, status } = await repos.createRelease({
      owner, repo, tag_name: asked.tag, name: asked.title, body: asked.notes, draft: true,
    });
    assert.deepEqual([status, data.draft, data.published_at], [201, true, null]);
  },
  async upload() {
    const release = await mine();
    const done = await Promise.all(asked.paths.map((path) => upload(release, path)));
    for (const { status, data } of done) assert.deepEqual([status, data.state], [201, "uploaded"]);
    await assert.rejects(upload(release, asked.other), (error) => {
      assert.deepEqual([error.status, error.response.data.errors[0].code], [422, "already_exists"]);
      return true;
    });
  },
  async publish() {
    const { data } = await repos.updateRelease({ owner, repo, release_id: (await mine()).id, draft: false });
    assert.equal(data.draft, false);
    await assert.rejects(repos.createRelease({ owner, repo, tag_name: asked.tag }), { status: 422 });
  },
  async list() {
    assert.deepEqual((await everything()).map((release) => release.tag_name), [asked.tag]);
  },
  async view() {
    const { data } = await repos.getReleaseByTag({ owner, repo, tag: asked.tag });
    assert.deepEqual([data.name, data.body, data.assets.length], [asked.title, asked.notes, asked.paths.length]);
  },
  async tag() {
    await fetchAll((await repos.getReleaseByTag({ owner, repo, tag: asked.tag })).data);
  },
  async latest() {
    await fetchAll((await repos.getLatestRelease({ owner, repo })).data);
  },
  async replace() {
    const name = basename(asked.other);
    await repos.deleteReleaseAsset({ owner, repo, asset_id: (await asset(name)).id });
    await upload(await mine(), asked.other);
    await fetchOne(await asset(name));
  },
  async edit() {
    await repos.updateRelease({ owner, repo, release_id: (await mine()).id, body: asked.edited });
    assert.equal((await repos.getLatestRelease({ owner, repo })).data.body, asked.edited);
  },
  async drop() {
    const { id } = await asset(asked.dropped);
    await repos.updateReleaseAsset({ owner, repo, asset_id: id, label: "Label" });
    assert.equal((await asset(asked.dropped)).label, "Label");
    await repos.deleteReleaseAsset({ owner, repo, asset_id: id });
    assert.equal(await asset(asked.dropped), undefined);
  },
  async delete() {
    await repos.deleteRelease({ owner, repo, release_id: (await mine()).id });
    await assert.rejects(repos.getLatestRelease({ owner, repo }), { status: 404 });
  },
};

await operations[process.argv[2]]();
