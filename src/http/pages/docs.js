;SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#api",
  deepLinking: true,
  displayRequestDuration: true,
  // Otherwise the document is sent to a validator on another host.
  validatorUrl: null,
  plugins: [
    {
      statePlugins: {
        spec: {
          wrapActions: {
            // Operations are tried out where this page comes from, prefix included; the policy allows no other place.
            updateJsonSpec: (update) => (spec) =>
              update({ ...spec, servers: [{ url: new URL(".", location.href).href.replace(/\/$/, "") }] }),
          },
        },
      },
    },
  ],
});
