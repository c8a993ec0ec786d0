// Shows the description of this server's API. The policy of the page allows no script but these files.
SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href, // beside /docs, under whatever path a proxy shows them
  dom_id: "#description",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  validatorUrl: null, // the default would send the description to a server of Swagger's
});
