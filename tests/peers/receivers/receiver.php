<?php
// PHP's form parser and its JSON as endpoints: POST /PARSER, under PHP's own server. `GET /got` says what the last request was: {tree, files} with
// each text in base64, since PHP keeps octets, or {json}; it stands in a file of the folder that the server was started in.
const GOT = 'got.json';

function encoded($value)
{
    return is_array($value) ? (object) array_map('encoded', $value) : base64_encode($value);
}

function files(): array
{
    $files = [];
    foreach ($_FILES['attachments']['name'] ?? [] as $at => $name) {
        $file = array_map(fn ($values) => $values[$at], $_FILES['attachments']);
        if ($file['error'] !== UPLOAD_ERR_OK) {
            throw new Exception("$name: error {$file['error']}");
        }
        $files[] = [
            'name' => 'attachments[]',
            'file_name' => $name,
            'type' => $file['type'],
            'content' => base64_encode(file_get_contents($file['tmp_name'])),
        ];
    }
    return $files;
}

if ($_SERVER['REQUEST_METHOD'] === 'GET') {
    header('Content-Type: application/json');
    readfile(GOT);
    return;
}
// What the parser had to say before this script ran.
if ($error = error_get_last()) {
    http_response_code(500);
    header('Content-Type: text/plain');
    echo $error['message'];
    return;
}
try {
    $got = $_SERVER['REQUEST_URI'] === '/json'
        ? ['json' => json_decode(file_get_contents('php://input'), false, 512, JSON_THROW_ON_ERROR)]
        : ['tree' => encoded($_POST), 'files' => files(), 'octets' => true];
    file_put_contents(GOT, json_encode($got, JSON_THROW_ON_ERROR));
    http_response_code(204);
} catch (Throwable $error) {
    http_response_code(500);
    header('Content-Type: text/plain');
    echo $error->getMessage();
}
