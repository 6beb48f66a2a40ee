await shared.close();
await waiting.close();
if (role) process.exit();
