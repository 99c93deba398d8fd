// Calls every operation through the generated TypeScript client, and checks a field of each answer.
// Usage: node calls.js URL SECRET. Prints the method and path of each request.

import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Schemas = components["schemas"];

const [url, secret] = process.argv.slice(2) as [string, string];
const items = ["trail-shoe", "rain-shell", "head-torch"];

function clientWith(key: string) {
  const client = createClient<paths>({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });
  client.use({ onRequest: ({ request, schemaPath }) => console.log(request.method, schemaPath) });
  return client;
}

const client = clientWith(secret);

// Returns the body of an answer with status 200.
async function ok<T>(call: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  const { data, error, response } = await call;
  assert.equal(response.status, 200, JSON.stringify(error));
  assert(data !== undefined);
  return data;
}

async function callDataRoutes(): Promise<void> {
  const user_id = "ava";
  const recommendations = await ok(
    client.GET("/v1/recommendations", { params: { query: { user_id, rec_id: ["homepage", "also-bought"] } } }),
  );
  assert.deepEqual(recommendations.items, items);
  assert.deepEqual(recommendations.recommendations.map((entry) => entry.rec_id), ["homepage", "also-bought"]);
  const recommended: Schemas["RecommendationsRequest"] = { user_id, rec_id: ["homepage"] };
  const posted = await ok(client.POST("/v1/recommendations", { body: recommended }));
  assert.deepEqual(posted.recommendations_by_id.homepage?.items, items);

  const properties = await ok(client.GET("/v1/properties", { params: { query: { user_id, keys: ["first_name"] } } }));
  assert.equal(properties.properties.first_name, "Ava");
  const named = await ok(client.POST("/v1/properties", { body: { user_id, keys: ["loyalty_points", "a, b"] } }));
  assert.deepEqual(named.properties_by_name, { loyalty_points: 420, "a, b": null });

  const cohorts = await ok(
    client.GET("/v1/cohorts", { params: { query: { user_id, on_error: "retry", cohort_id: ["vip", "newsletter"] } } }),
  );
  assert.deepEqual(cohorts.cohort_ids, ["vip"]);
  assert.equal(cohorts.is_member, false);
  const member = await ok(client.POST("/v1/cohorts", { body: { user_id, cohort_id: ["vip"] } }));
  assert.equal(member.member.vip, true);

  const computations = await ok(
    client.GET("/v1/computations", { params: { query: { user_id, comp_id: ["comp-orders"] } } }),
  );
  assert.equal(computations.computations.orders, 12);
  const ofDevice = await ok(client.POST("/v1/computations", { body: { device_id: "device-ava" } }));
  assert.equal(ofDevice.user_id, user_id);

  const propensities = await ok(
    client.GET("/v1/propensities", { params: { query: { user_id, prediction_id: ["pred-buy"] } } }),
  );
  assert.equal(propensities.propensity, 0.83);
  const percentiles = await ok(
    client.POST("/v1/propensities", { body: { user_id, prediction_id: ["pred-buy"], propensity_type: "pct" } }),
  );
  assert.equal(percentiles.propensities[0]?.value, 97);

  const profile = await ok(
    client.GET("/v1/profile", { params: { query: { user_id, include: ["cohorts", "properties"], keys: ["first_name"] } } }),
  );
  assert.deepEqual(profile.cohort_ids, ["vip", "c31"]);
  const withItems = await ok(
    client.POST("/v1/profile", { body: { user_id, include: ["recommendations"], rec_id: ["homepage"] } }),
  );
  assert.deepEqual(withItems.items, items);

  const anonymous = await ok(client.GET("/v1/cohorts", { params: { query: { user_id: "" } } }));
  const word: Schemas["ErrorWord"] | null = anonymous.error;
  assert.equal(word, "blank_id");

  const current = await client.GET("/v1/cohorts", { params: { query: { user_id } } });
  const tag = current.response.headers.get("ETag") ?? "";
  const unchanged = await client.GET("/v1/cohorts", {
    // Without Cache-Control, fetch adds `no-cache` to a request with If-None-Match.
    params: { query: { user_id }, header: { "If-None-Match": tag, "Cache-Control": "max-age=3600" } },
  });
  assert.equal(unchanged.response.status, 304);

  const forgotten = await ok(client.DELETE("/v1/profile", { params: { query: { user_id } } }));
  assert(forgotten.records > 0);
}

async function callDropIn(): Promise<void> {
  const user_id = "ava";
  const known = await ok(
    client.GET("/v1/userprofile", { params: { query: { user_id, get_cohort_ids: true, get_amp_props: false } } }),
  );
  assert("userData" in known);
  assert.deepEqual(known.userData.cohort_ids, ["vip", "c31"]);
  const posted = await ok(client.POST("/v1/userprofile", { body: { user_id, get_recs: true, rec_id: ["homepage"] } }));
  assert("userData" in posted);
  assert.deepEqual(posted.userData.recommendations?.[0]?.items, items);

  const unknown = await client.GET("/v1/userprofile", { params: { query: { user_id: "unknown-user", get_cohort_ids: true } } });
  assert(unknown.error && "error" in unknown.error);
  assert.equal(unknown.error.error, "User id and device id not seen before");
  const invalid = await client.GET("/v1/userprofile", { params: { query: { user_id, get_recs: true } } });
  assert(invalid.error && "parameter" in invalid.error);
  assert.equal(invalid.error.parameter, "rec_id");
}

async function callWebhooks(): Promise<void> {
  const now = String(Math.floor(Date.now() / 1000));
  const entered: Schemas["CohortMessage"] = {
    cohort_id: "c9",
    in_cohort: true,
    computed_time: now,
    users: [{ user_id: "eve" }],
  };
  assert.equal((await ok(client.POST("/v1/webhooks/amplitude/cohorts", { body: entered }))).applied, 1);
  const user: Schemas["UserMessage"] = { user_id: "eve", user_properties: { plan: "gold" }, event_time: now };
  for (const body of [user, [user]]) {
    assert.equal((await ok(client.POST("/v1/webhooks/amplitude/users", { body }))).applied, 1);
  }
  const cohorts = await ok(client.GET("/v1/cohorts", { params: { query: { user_id: "eve", cohort_id: ["c9"] } } }));
  assert.equal(cohorts.is_member, true);
  const events: Schemas["CurrentsMessage"]["events"] = [
    { event_type: "users.messages.email.Open", id: "1", time: 1767225600, user: { external_user_id: "eve" } },
  ];
  assert.equal((await ok(client.POST("/v1/webhooks/braze/currents", { body: { events } }))).accepted, 1);
}

async function callSnapshots(): Promise<void> {
  const path = { cohort_id: "c77" };
  const upload = {
    body: '"ava"\n"eve"\n',
    bodySerializer: (lines: string) => lines,
    headers: { "Content-Type": "application/x-ndjson" },
  };
  assert.equal((await ok(client.PUT("/v1/snapshots/{cohort_id}", { params: { path }, ...upload }))).members, 2);
  const listed = await ok(client.GET("/v1/snapshots"));
  assert.deepEqual(listed.snapshots.map((snapshot) => snapshot.cohort_id), ["c77"]);
  assert(listed.cache.records > 0 && listed.cache.evictions === 0);
  const cohorts = await ok(client.GET("/v1/cohorts", { params: { query: { user_id: "eve", cohort_id: ["c77"] } } }));
  assert.equal(cohorts.is_member, true);
  const older = await client.PUT("/v1/snapshots/{cohort_id}", { params: { path, query: { as_of: "1" } }, ...upload });
  assert.equal(older.error?.parameter, "as_of");
  assert((await ok(client.DELETE("/v1/snapshots/{cohort_id}", { params: { path } }))).removed);
}

async function callOperationAndPlayground(): Promise<void> {
  assert.match((await ok(client.GET("/healthz"))).version ?? "", /^\d/);
  assert.equal((await ok(client.GET("/readyz"))).status, "ok");
  assert.match(await ok(client.GET("/metrics", { parseAs: "text" })), /proxy_build_info/);
  const status = await ok(client.GET("/status.json"));
  const scope: Schemas["Scope"] | undefined = status.callers[0]?.scope;
  assert.equal(scope, "admin");
  const template =
    "{% connected_content https://host/v1/cohorts?user_id={{${user_id}}} :save c %}{{ c.cohort_ids }}";
  const rendering = await ok(client.POST("/playground/render", { body: { template, user_id: "ava" } }));
  assert.equal(rendering.outcome, "sent");
  assert.equal(rendering.tags[0]?.called, "/v1/cohorts");
}

async function getErrors(): Promise<void> {
  const missing = await client.GET("/v1/cohorts", { params: { query: {} } });
  const problem: Schemas["Problem"] | undefined = missing.error;
  assert.equal(missing.response.status, 400);
  assert.equal(problem?.code, "missing_parameter");
  const long = await client.POST("/v1/cohorts", { body: { user_id: "u".repeat(513) } });
  assert.equal(long.error?.code, "invalid_parameter");
  assert.equal(long.error?.parameter, "user_id");
  const refused = await clientWith("wrong").GET("/v1/cohorts", { params: { query: { user_id: "ava" } } });
  assert.equal(refused.response.status, 401);
  assert.equal(refused.error?.code, "unauthorized");
}

await callDataRoutes();
await callDropIn();
await callWebhooks();
await callSnapshots();
await callOperationAndPlayground();
await getErrors();
